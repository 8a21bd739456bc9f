"""The catalogue of base models, where one is on this machine, and whether it is whole. Loads nothing."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from weights.base_files import INDEX, check_folder

WEIGHTS = Path(__file__).resolve().parent
SETTING = "FLUX_BASE"
DEFAULT = "dev"
# What each published base is called on Hugging Face; `tiny` is made by this project and needs no download.
REPOSITORIES = {
    "dev": "black-forest-labs/FLUX.1-dev",
    "krea": "black-forest-labs/FLUX.1-Krea-dev",
    "schnell": "black-forest-labs/FLUX.1-schnell",
}
WITHOUT_GUIDANCE = frozenset({"schnell"})
TINY = "tiny"


@dataclass(frozen=True, slots=True)
class Base:
    """A base model that is there."""

    name: str
    path: Path
    remedy: str  # how a file of it is brought that is missing


def find_base() -> Base:
    """The base that FLUX_BASE names (a name of the catalogue, or a folder in diffusers layout; `dev` if unset).

    Raises ValueError for a name that does not exist and FileNotFoundError for weights that are not there: what was
    looked for, where, and what to do. Never falls back to another base.
    """
    name = os.environ.get(SETTING, "").strip() or DEFAULT
    if name == TINY:
        return _existing(name, WEIGHTS / "tiny-flux", remedy="run script/build-tiny-flux")
    if name in REPOSITORIES:
        return _existing(name, WEIGHTS / name, remedy=_download(name))
    if os.sep in name:
        return _existing(f"folder {Path(name).name}", Path(name), remedy="copy it anew from where this folder is from")
    raise ValueError(f"{SETTING} is {name!r}: expected {', '.join(REPOSITORIES)}, {TINY}, or the path of a folder")


def requested_base(model: str | None, *, served: Base) -> Base:
    """The base that a request's `model` names, by default the one that FLUX_BASE names.

    A base that was not published, such as the embedded one, stands in for those of its kind that are not there: dev and
    krea take guidance, schnell does not. Raises ValueError for a name that does not exist and FileNotFoundError for
    weights that are not there.
    """
    name = str(model or "").strip() or served.name  # without a schema, anything may be asked for
    if name == served.name:
        return served
    if name not in REPOSITORIES:
        raise ValueError(f"model is {name!r}: expected {', '.join(REPOSITORIES)}, or none for {served.name}")
    if (WEIGHTS / name / INDEX).is_file():
        return Base(name, WEIGHTS / name, _download(name))
    if served.name not in REPOSITORIES and takes_guidance(served) == (name not in WITHOUT_GUIDANCE):
        return served
    raise FileNotFoundError(
        f"model is {name}: no weights/{name} here, which draws with {served.name}; {_download(name)}"
    )


def check_base(base: Base) -> None:
    """Looks at the files of a base before they are loaded, in milliseconds; what it finds is in `check_folder`.

    Raises FileNotFoundError for a file that is missing and ValueError for one that is damaged: one sentence with its
    path, what was found, what was expected and what to do.
    """
    with with_remedy(base):
        check_folder(base.path)


@contextmanager
def with_remedy(base: Base) -> Iterator[None]:
    """What is said here of a missing or damaged file, in a FileNotFoundError or ValueError that begins with its path,
    is said with the base's name and what to do."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"the base {base.name}: {error}; {base.remedy}") from error
    except ValueError as error:
        raise ValueError(f"the base {base.name}: {error}; remove it, then {base.remedy}") from error


def takes_guidance(base: Base) -> bool:
    """Whether a base was made to be told its guidance; raises OSError or ValueError if its config cannot be read."""
    config = json.loads((base.path / "transformer" / "config.json").read_text())
    return bool(config.get("guidance_embeds"))


def find_trainable_base() -> Base:
    """The base that FLUX_BASE names, checked, if it can be trained.

    Raises as `find_base` and `check_base` do, and ValueError for a base without a guidance embedding.
    """
    base = find_base()
    check_base(base)
    if not takes_guidance(base):
        raise ValueError(f"{SETTING} is {base.name}: this base can be drawn with, not trained: expected dev or krea")
    return base


def _existing(name: str, folder: Path, *, remedy: str) -> Base:
    if not (folder / INDEX).is_file():
        wanted = "expected a folder in diffusers layout"
        raise FileNotFoundError(f"{SETTING} is {name}: no {INDEX} in {folder}, {wanted}; {remedy}")
    return Base(name, folder, remedy)


def _download(name: str) -> str:
    """How a person gets a published base; the licences of these models must be accepted first."""
    repository = REPOSITORIES[name]
    without = "--exclude 'flux1-*' --exclude 'ae.safetensors'"  # the same weights once more, in another layout
    steps = f"hf download {repository} --local-dir weights/{name} {without}"
    return f"accept the licence at huggingface.co/{repository}, log in with `hf auth login`, then `{steps}`"
