"""Where the safety checker of drawn images is, and whether a deployment insists on it. Loads nothing."""

import os
from dataclasses import dataclass
from pathlib import Path

from weights.bases import WEIGHTS

SETTING = "FLUX_SAFETY"
REQUIRED, OPTIONAL, OFF = "required", "optional", "off"
REPOSITORY = "Falconsai/nsfw_image_detection"
FOLDER = WEIGHTS / "safety"
CONFIG = "config.json"


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

    Raises ValueError for another setting and FileNotFoundError if the checker is required and not there.
    """
    setting = os.environ.get(SETTING, "").strip() or OPTIONAL
    if setting not in (REQUIRED, OPTIONAL, OFF):
        raise ValueError(f"{SETTING} is {setting!r}: expected {REQUIRED}, {OPTIONAL} or {OFF}")
    is_there = (FOLDER / CONFIG).is_file()
    if setting == REQUIRED and not is_there:
        raise FileNotFoundError(f"{SETTING} is {REQUIRED}: no {CONFIG} in {FOLDER}; {REMEDY}")
    return Safety(FOLDER if is_there and setting != OFF else None, can_be_disabled=setting != REQUIRED)
