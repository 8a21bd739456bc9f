"""Where the safety checker of drawn images is, and whether a deployment insists on it. Loads no model."""

import os
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download

from weights.bases import WEIGHTS

SETTING = "FLUX_SAFETY"
REQUIRED, OPTIONAL, OFF = "required", "optional", "off"
REPOSITORY = "Falconsai/nsfw_image_detection"
FOLDER = WEIGHTS / "safety"
CONFIG = "config.json"
FILES = ["*.json", "model.safetensors"]  # of the repository: it has the same weights once more as a pickle


@dataclass(frozen=True, slots=True)
class Safety:
    """How a deployment checks what it draws."""

    folder: Path | None  # of the checker; None where there is none to be used
    can_be_disabled: bool  # by a request

    def line(self) -> str:
        """For whoever reads the log of the setup."""
        if self.folder is None:
            return f"safety checker: none, images are not checked; {REMEDY}, or set {SETTING}={REQUIRED} to insist"
        return "safety checker: every image is checked" + (", unless a request says no" if self.can_be_disabled else "")


REMEDY = f"`hf download {REPOSITORY} --local-dir weights/safety` brings one"


def find_safety() -> Safety:
    """What FLUX_SAFETY says: `required` checks every image whatever a request says, `optional` (if unset) where there
    is a checker and the request lets it, `off` never.

    A checker is looked for in weights/safety and in the Hub's own cache; one that is required is fetched from the Hub.
    Raises ValueError for another setting and FileNotFoundError if the checker is required and not to be had.
    """
    setting = os.environ.get(SETTING, "").strip() or OPTIONAL
    if setting not in (REQUIRED, OPTIONAL, OFF):
        raise ValueError(f"{SETTING} is {setting!r}: expected {REQUIRED}, {OPTIONAL} or {OFF}")
    if setting == OFF:
        return Safety(None, can_be_disabled=True)
    if (FOLDER / CONFIG).is_file():
        return Safety(FOLDER, can_be_disabled=setting == OPTIONAL)
    if setting == REQUIRED:
        return Safety(_fetched(), can_be_disabled=False)
    return Safety(_cached(), can_be_disabled=True)


def _cached() -> Path | None:
    try:
        return Path(snapshot_download(REPOSITORY, allow_patterns=FILES, local_files_only=True))
    except OSError:
        return None


def _fetched() -> Path:
    try:
        return Path(snapshot_download(REPOSITORY, allow_patterns=FILES))
    except OSError as error:
        reason = " ".join(str(error).split())[:200]
        raise FileNotFoundError(
            f"{SETTING} is {REQUIRED}: no {CONFIG} in {FOLDER}, and none came from huggingface.co/{REPOSITORY}"
            f" ({reason}); {REMEDY}"
        ) from error
