"""The catalogue of base models: finds one on this machine and checks its files. Loads nothing."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from weights.base_files import INDEX, check_folder

WEIGHTS = Path(__file__).resolve().parent
SETTING = "FLUX_BASE"
DEFAULT = "dev"
# The published bases on Hugging Face. `tiny` is part of this project and needs no download.
REPOSITORIES = {
    "dev": "black-forest-labs/FLUX.1-dev",
    "krea": "black-forest-labs/FLUX.1-Krea-dev",
    "schnell": "black-forest-labs/FLUX.1-schnell",
}
WITHOUT_GUIDANCE = frozenset({"schnell"})
TINY = "tiny"

# Called with the name of a base, and whether it is a published one, before its files are looked for; raises an error if
# this machine cannot run it. So nobody is told to download gigabytes in vain.
Check = Callable[[str, bool], None]


@dataclass(frozen=True, slots=True)
class Base:
    """A base model on this machine."""

    name: str
    path: Path
    remedy: str  # how to get a missing file


def accept(_name: str, _is_published: bool) -> None:
    """The check that accepts every base."""


def find_base(check: Check = accept) -> Base:
    """Return the base that FLUX_BASE names: a name of the catalogue, or a folder in diffusers layout; `dev` if unset.

    Raises what `check` raises, ValueError for an unknown name and FileNotFoundError for missing weights; the message
    says where they were expected and how to get them. Never falls back to another base.
    """
    name = os.environ.get(SETTING, "").strip() or DEFAULT
    check(name, name in REPOSITORIES)
    if name == TINY:
        return _existing_base(name, WEIGHTS / "tiny-flux", remedy="run script/build-tiny-flux")
    if name in REPOSITORIES:
        return _existing_base(name, WEIGHTS / name, remedy=_download_steps(name))
    if os.sep in name:
        return _existing_base(f"folder {Path(name).name}", Path(name), remedy="copy that file again from its source")
    raise ValueError(f"{SETTING} is {name!r}: expected {', '.join(REPOSITORIES)}, {TINY}, or the path of a folder")


def requested_base(model: str | None, *, served: Base, check: Check = accept) -> Base:
    """Return the base that the `model` of a request names; the one that FLUX_BASE names if the request names none.

    An unpublished base, such as the embedded one, replaces missing published bases of the same kind: dev and krea take
    guidance, schnell does not. Raises ValueError for an unknown name, what `check` raises for another base than the
    served one, and FileNotFoundError for missing weights.
    """
    name = str(model or "").strip() or served.name  # without a schema, the value may have any type
    if name == served.name:
        return served
    if name not in REPOSITORIES:
        raise ValueError(f"model is {name!r}: expected {', '.join(REPOSITORIES)}, or none for {served.name}")
    is_missing = not (WEIGHTS / name / INDEX).is_file()
    if is_missing and served.name not in REPOSITORIES and takes_guidance(served) == (name not in WITHOUT_GUIDANCE):
        return served
    check(name, True)
    if not is_missing:
        return Base(name, WEIGHTS / name, _download_steps(name))
    raise FileNotFoundError(
        f"model is {name}: weights/{name} is not installed, this server has {served.name}; {_download_steps(name)}"
    )


def check_base(base: Base) -> None:
    """Check the files of a base before they are loaded, within milliseconds; see `check_folder`.

    Raises FileNotFoundError for a missing file and ValueError for a damaged one, with one sentence: the path, what was
    found, what was expected and what to do.
    """
    with with_remedy(base):
        check_folder(base.path)


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
    """Whether a base has a guidance embedding; raises OSError or ValueError if its config cannot be read."""
    config = json.loads((base.path / "transformer" / "config.json").read_text())
    return bool(config.get("guidance_embeds"))


def find_trainable_base(check: Check = accept) -> Base:
    """Return the base that FLUX_BASE names after checking its files.

    Raises the errors of `find_base` and `check_base`, and ValueError for a base without a guidance embedding.
    """
    base = find_base(check)
    check_base(base)
    if not takes_guidance(base):
        raise ValueError(f"{SETTING} is {base.name}: this base can generate, but not be trained: expected dev or krea")
    return base


def _existing_base(name: str, folder: Path, *, remedy: str) -> Base:
    if not (folder / INDEX).is_file():
        expected = "expected a folder in diffusers layout"
        raise FileNotFoundError(f"{SETTING} is {name}: no {INDEX} in {folder}, {expected}; {remedy}")
    return Base(name, folder, remedy)


def _download_steps(name: str) -> str:
    """Return instructions to download a published base. The licence must be accepted first."""
    repository = REPOSITORIES[name]
    exclude = "--exclude 'flux1-*' --exclude 'ae.safetensors'"  # duplicates of the weights in another layout
    steps = f"hf download {repository} --local-dir weights/{name} {exclude}"
    return f"accept the licence at huggingface.co/{repository}, log in with `hf auth login`, then `{steps}`"
