"""The catalogue of base models, and where one is on this machine. Loads nothing."""

import os
from dataclasses import dataclass
from pathlib import Path

WEIGHTS = Path(__file__).resolve().parent
SETTING = "FLUX_BASE"
DEFAULT = "dev"
# What each published base is called on Hugging Face; `tiny` is made by this project and needs no download.
REPOSITORIES = {
    "dev": "black-forest-labs/FLUX.1-dev",
    "krea": "black-forest-labs/FLUX.1-Krea-dev",
    "schnell": "black-forest-labs/FLUX.1-schnell",
}
TINY = "tiny"
INDEX = "model_index.json"  # what a folder in diffusers layout always holds


@dataclass(frozen=True, slots=True)
class Base:
    """A base model that is there."""

    name: str
    path: Path


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
        return _existing(Path(name).name, Path(name), remedy=f"expected a folder in diffusers layout, with {INDEX}")
    raise ValueError(f"{SETTING} is {name!r}: expected {', '.join(REPOSITORIES)}, {TINY}, or the path of a folder")


def _existing(name: str, folder: Path, *, remedy: str) -> Base:
    if not (folder / INDEX).is_file():
        raise FileNotFoundError(f"{SETTING}={name}: no {INDEX} in {folder}; {remedy}")
    return Base(name, folder)


def _download(name: str) -> str:
    """How a person gets a published base; the licences of these models must be accepted first."""
    repository = REPOSITORIES[name]
    steps = f"hf download {repository} --local-dir weights/{name} --exclude 'flux1-*' 'ae.safetensors'"
    return f"accept the licence at huggingface.co/{repository}, log in with `hf auth login`, then `{steps}`"
