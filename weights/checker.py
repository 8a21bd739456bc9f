"""Finds the safety checker of generated images, and whether the deployment requires it. Loads no model."""

import os
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download

from weights.bases import WEIGHTS
from weights.weight_file import check_weight_file

SETTING = "FLUX_SAFETY"
REQUIRED, OPTIONAL, OFF = "required", "optional", "off"
REPOSITORY = "Falconsai/nsfw_image_detection"
FOLDER = WEIGHTS / "safety"
CONFIG = "config.json"
WEIGHT_FILE = "model.safetensors"
FILES = ["*.json", WEIGHT_FILE]  # not the pickle with the same weights that the repository also contains


@dataclass(frozen=True, slots=True)
class Safety:
    """How a deployment checks generated images."""

    folder: Path | None  # of the checker; None if images are not checked
    can_be_disabled: bool  # by a request

    def line(self) -> str:
        """Return a line for the log of the setup."""
        if self.folder is None:
            return f"safety checker: none, images are not checked; {REMEDY}, or set {SETTING}={REQUIRED} to require one"
        return "safety checker: every image is checked" + (
            ", unless a request disables it" if self.can_be_disabled else ""
        )


REMEDY = f"`hf download {REPOSITORY} --local-dir weights/safety` downloads one"


def find_safety() -> Safety:
    """Find the safety checker according to FLUX_SAFETY.

    `required` checks every image, whatever a request says; `optional` (the default) checks if there is a checker and
    the request does not disable it; `off` never checks. The checker is looked up in weights/safety and in the cache of
    huggingface_hub; a required one is downloaded from the Hub if it is in neither.

    Raises ValueError for another setting and for a checker with damaged weights. Raises FileNotFoundError if the
    checker is required and cannot be downloaded, or if weights/safety exists without a complete checker.
    """
    setting = os.environ.get(SETTING, "").strip() or OPTIONAL
    if setting not in (REQUIRED, OPTIONAL, OFF):
        raise ValueError(f"{SETTING} is {setting!r}: expected {REQUIRED}, {OPTIONAL} or {OFF}")
    if setting == OFF:
        return Safety(None, can_be_disabled=True)
    if FOLDER.is_dir():
        return Safety(_checked_folder(FOLDER), can_be_disabled=setting == OPTIONAL)
    folder = _downloaded_folder() if setting == REQUIRED else _cached_folder()
    return Safety(folder and _checked_folder(folder), can_be_disabled=setting == OPTIONAL)


def _checked_folder(folder: Path) -> Path:
    """Check the files before they are loaded: transformers reports damaged files poorly."""
    for name in (CONFIG, WEIGHT_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"the safety checker: {folder / name} is missing: expected it; {REMEDY}")
    try:
        check_weight_file(folder / WEIGHT_FILE)
    except ValueError as error:
        raise ValueError(f"the safety checker: {error}; remove it, then {REMEDY}") from error
    return folder


def _cached_folder() -> Path | None:
    try:
        return Path(snapshot_download(REPOSITORY, allow_patterns=FILES, local_files_only=True))
    except OSError:
        return None


def _downloaded_folder() -> Path:
    try:
        return Path(snapshot_download(REPOSITORY, allow_patterns=FILES))
    except OSError as error:
        reason = " ".join(str(error).split())[:200]
        raise FileNotFoundError(
            f"{SETTING} is {REQUIRED}: no {CONFIG} in {FOLDER}, and none could be downloaded from "
            f"huggingface.co/{REPOSITORY} ({reason}); {REMEDY}"
        ) from error
