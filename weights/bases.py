"""Finds the base model that a setting or a request names on this machine, and checks its files. Loads nothing."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from weights.base_fetching import cache_folder, destination_of, ensure_base
from weights.base_files import check_folder, weight_files
from weights.base_kind import INDEX, check_kind, kind_of, model_name, named_kind
from weights.base_manifest import check_digests
from weights.catalogue import DEFAULT, NAMES, PUBLISHED, TRAINABLE, PublishedBase, embedded, published, published_in
from weights.grammar.base_source import BaseSource, is_hub_name, parse_base_source
from weights.hub_cache import cached_repository
from weights.printed import quoted

WEIGHTS = Path(__file__).resolve().parent
SETTING = "FLUX_BASE"
URL_SETTING = "FLUX_BASE_URL"
FETCHED_AGAIN = "start again, which downloads it"

# Called with the name of a base, and whether it is a published one, before its files are looked for; raises an error if
# this machine cannot run it. So nobody is told to download gigabytes in vain.
Check = Callable[[str, bool], None]
LogLine = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Base:
    """A base model on this machine."""

    name: str
    path: Path
    remedy: str  # how to get a missing file


def accept(_name: str, _is_published: bool) -> None:
    """The check that accepts every base."""


def log_nothing(_line: str) -> None:
    """The log of a caller that has none."""


def find_base(check: Check = accept, log_line: LogLine = log_nothing) -> Base:
    """Return the base that FLUX_BASE names: a name of the catalogue, or a folder in diffusers layout; `dev` if unset.

    A base that is not on this machine is downloaded from FLUX_BASE_URL, if that is set: a tar at an https URL, or
    hf://owner/name@revision, which names the base if FLUX_BASE is unset. It is kept in a cache, and a start that finds
    it there asks no server. Nothing is ever downloaded otherwise.

    Raises what `check` raises, ValueError for an unknown name and FileNotFoundError for missing weights; the message
    says where they were expected and how to get them. Raises ValueError and OSError if the download fails. Never falls
    back to another base.
    """
    setting, source = os.environ.get(SETTING, "").strip(), _source()
    name = setting or (_name_of(source) if source else DEFAULT)
    named = _cached_name(name) or name
    check(named, published(named) is not None)
    if own := embedded(name):
        return _existing_base(name, WEIGHTS / own.folder, remedy=own.remedy)
    if known := published(name):
        if source and not (WEIGHTS / name / INDEX).is_file():
            return _fetched_base(name, source, log_line)
        if source:
            log_line(f"{URL_SETTING} is not used: the base {name} is in {WEIGHTS / name}")
        return _existing_base(name, WEIGHTS / name, remedy=known.remedy)
    if source and not setting:
        return _fetched_base(name, source, log_line)
    return _named_folder(name)


def requested_base(model: str | None, *, served: Base, check: Check = accept) -> Base:
    """Return the base that the `model` of a request names; the one that FLUX_BASE names if the request names none.

    An unpublished base, such as an embedded one, replaces missing published bases of its kind that take guidance if it
    does: in the place of dev and krea or of klein and klein-9b, or else in that of schnell or of klein-distilled.
    Raises ValueError for an unknown name, what `check` raises for another base than the served one, and
    FileNotFoundError for missing weights.
    """
    name = str(model or "").strip() or served.name  # without a schema, the value may have any type
    if name == served.name:
        return served
    known = published(name)
    if known is None:
        names = ", ".join(base.name for base in PUBLISHED)
        raise ValueError(f"model is {quoted(name)}: expected {names}, or none for {served.name}")
    is_missing = not (WEIGHTS / name / INDEX).is_file()
    if is_missing and published(served.name) is None and _stands_in(served, known):
        return served
    check(name, True)
    if not is_missing:
        return Base(name, WEIGHTS / name, known.remedy)
    raise FileNotFoundError(
        f"model is {name}: weights/{name} is not installed, this server has {served.name}; {known.remedy}"
    )


def _stands_in(served: Base, missing: PublishedBase) -> bool:
    kind = kind_of(served.path)
    return kind is missing.kind and kind.takes_guidance(served.path) == missing.takes_guidance


def check_base(base: Base, log_line: LogLine = log_nothing) -> None:
    """Check the files of a base before they are loaded, within milliseconds; see `check_folder`. Files whose sha256 is
    known are compared with it once, which reads all of them.

    Raises FileNotFoundError for a missing file and ValueError for a damaged one, with one sentence: the path, what was
    found, what was expected and what to do. Raises ValueError for a model of no kind that can be
    loaded, and for a published base of another kind than its name says.
    """
    try:
        _check_kind(base.name, base.path)
    except ValueError as error:
        raise ValueError(f"the base {base.name} cannot be used: {error}") from error
    with with_remedy(base):
        check_folder(base.path)
        files = weight_files(base.path) if published(base.name) else []
        check_digests(base.path, published=files, log_line=log_line)


@contextmanager
def with_remedy(base: Base) -> Iterator[None]:
    """Add the name of the base and the remedy to errors about its files.

    Applies to a FileNotFoundError or ValueError whose message starts with the path of the file.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"the base {base.name}: {error}; {base.remedy}") from error
    except ValueError as error:
        raise ValueError(f"the base {base.name}: {error}; remove it, then {base.remedy}") from error


def takes_guidance(base: Base) -> bool:
    """Whether a base takes guidance: FLUX.1 by an embedding, FLUX.2 [klein] in a second pass; distilled bases do not.

    Raises OSError or ValueError if its configuration cannot be read.
    """
    return kind_of(base.path).takes_guidance(base.path)


def model_of(base: Base) -> str:
    """Return what LoRAs for a base are made for, such as FLUX.2 [klein] 4B; raises like `takes_guidance`."""
    return model_name(base.path)


def check_takes_references(base: Base, named: str) -> None:
    """Raise ValueError for a base that takes no reference images; the sentence begins with `named`, the input that asks
    for them, and names the bases that take them. Raises like `takes_guidance`."""
    if not kind_of(base.path).takes_references:
        names = ", ".join(known.name for known in PUBLISHED if known.kind.takes_references)
        raise ValueError(
            f"{named} needs a base that takes reference images, and {base.name} takes none: expected {names}"
        )


def find_trainable_base(check: Check = accept, log_line: LogLine = log_nothing) -> Base:
    """Return the base that FLUX_BASE names after checking its files.

    Raises the errors of `find_base` and `check_base`, and ValueError for a distilled base, which takes no guidance.
    """
    base = find_base(check, log_line)
    check_base(base, log_line)
    if not takes_guidance(base):
        names = ", ".join(known.name for known in TRAINABLE)
        found = "this base is distilled, so that it can generate, but not be trained"
        raise ValueError(f"{SETTING} is {base.name}: {found}: expected one of {names}")
    return base


def _source() -> BaseSource | None:
    setting = os.environ.get(URL_SETTING, "").strip()
    try:
        return parse_base_source(setting) if setting else None
    except ValueError as error:
        raise ValueError(f"{URL_SETTING} {error}") from error


def _name_of(source: BaseSource) -> str:
    """Return the name of a base in the catalogue, or what its source calls it."""
    known = published_in(source.name)
    return known.name if known else source.name


def _fetched_base(name: str, source: BaseSource, log_line: LogLine) -> Base:
    """Return the base that FLUX_BASE_URL names, from the cache of this machine, or downloaded into it."""
    if published_in(source.name) not in (None, published(name)):
        raise ValueError(f"{SETTING} is {name}, and {URL_SETTING} names {source.name}: expected the same base in both")
    folder = cache_folder(source)
    try:
        ensure_base(source, destination_of(source, folder, log_line))
    except ValueError as error:
        raise ValueError(f"{URL_SETTING} {error}") from error
    except OSError as error:
        raise OSError(f"{URL_SETTING} {error}") from error
    return Base(name, folder, FETCHED_AGAIN)


def _named_folder(name: str) -> Base:
    """Return the base in a folder; raises ValueError for what is neither a folder nor a known name."""
    folder = Path(name)
    if "://" in name or name.lower().startswith("hf:"):
        raise ValueError(f"{SETTING} is a URL: expected {_names()}; a URL belongs into {URL_SETTING}")
    if is_hub_name(name) and not folder.exists():
        known = published_in(name)
        expected = f"expected {_names()}; `script/download {known.name if known else name}` downloads it"
        value = known.name if known else download_folder(name)
        raise ValueError(f"{SETTING} is {name!r}, which is no folder: {expected}, then set {SETTING}={value}")
    if os.sep not in name:
        raise ValueError(f"{SETTING} is {name!r}: expected {_names()}")
    if folder.is_file():
        raise ValueError(f"{SETTING} is the file {name}: expected {_names()} in diffusers layout")
    named = _cached_name(name) or f"folder {folder.name}"
    return _existing_base(named, folder, remedy="copy that file again from its source")


def _cached_name(setting: str) -> str | None:
    """Return the name of a base in a cache of Hugging Face, by its folder there: that of the catalogue, or that of its
    repository; None for any other setting."""
    repository = cached_repository(Path(setting)) if os.sep in setting else None
    if repository is None:
        return None
    known = published_in(repository)
    return known.name if known else repository


def _names() -> str:
    return f"{', '.join(NAMES)}, or the path of a folder"


def _existing_base(name: str, folder: Path, *, remedy: str) -> Base:
    if not (folder / INDEX).is_file():
        expected = "expected a folder in diffusers layout"
        raise FileNotFoundError(f"{SETTING} is {name}: no {INDEX} in {folder}, {expected}; {remedy}")
    try:
        _check_kind(name, folder)
    except ValueError as error:
        raise ValueError(f"{SETTING} is {name}: {error}") from error
    return Base(name, folder, remedy)


def _check_kind(name: str, folder: Path) -> None:
    """Raise ValueError if a folder holds no base of one kind, or one of another kind than the catalogue says."""
    check_kind(folder)
    known, kind = published(name) or embedded(name), named_kind(folder)
    if known and kind and kind is not known.kind:
        raise ValueError(f"{folder / INDEX} is that of {kind.name}: expected {known.kind.name} in this folder")


def download_folder(name: str) -> Path:
    """Return the folder into which `script/download` puts a base: weights/ and the last part of its name."""
    return WEIGHTS / name.rpartition("/")[2]
