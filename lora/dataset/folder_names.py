"""Folder names of kohya's sd-scripts, `10_ohwx person`: how often its images are repeated, and words that caption them.

Only names that can hardly mean anything else count: `2024_holiday` is a year, `01_front` a position in a series,
`24_12_2023` a date, and `100_PANA` a folder of a camera.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from math import gcd
from pathlib import PurePosixPath

from lora.dataset.names import MAX_FOLDERS, path_of

# sd-scripts splits at the first underscore, and takes what is before it as a number. Words start with no number: that
# is a date. A camera's folder has a number of three digits and five characters of A to Z, 0 to 9 and _ (JEITA CP-3461,
# DCF 2.0), of which many cameras use the first as a separator.
CAMERA_FOLDER = r"\d{3}_[A-Z0-9_]{4}"
KOHYA_FOLDER = re.compile(rf"(?!{CAMERA_FOLDER}$)(?P<repeats>[1-9]\d{{0,2}})_(?!\d+(?:[\W_]|$))(?P<words>.*[^\W_].*)")
LEAST_OF_A_SERIES = 3  # folders: 1_front, 2_side, 3_back are numbered, not repeated


@dataclass(frozen=True, slots=True)
class KohyaFolder:
    """A folder with repeats and words in its name."""

    path: PurePosixPath
    repeats: int
    words: str


def is_kohya_folder(name: str) -> bool:
    """Whether the name of a folder has the form of sd-scripts."""
    return KOHYA_FOLDER.fullmatch(name) is not None


def kohya_folders(images: Iterable[str]) -> dict[str, KohyaFolder]:
    """The kohya folder of each image that is in one, by the image's name."""
    found = {name: folder for name in images if (folder := _innermost(path_of(name)))}
    numbers = sorted(folder.repeats for folder in set(found.values()))
    is_series = len(numbers) >= LEAST_OF_A_SERIES and numbers == list(range(1, len(numbers) + 1))
    return {} if is_series else found


def _innermost(path: PurePosixPath) -> KohyaFolder | None:
    for parent in path.parents[:MAX_FOLDERS]:
        if match := KOHYA_FOLDER.fullmatch(parent.name):
            return KohyaFolder(parent, int(match["repeats"]), match["words"].replace("_", " ").strip())
    return None


def relative_repeats(folders: dict[str, KohyaFolder], images: Iterable[str]) -> dict[str, int]:
    """How often each image is repeated relative to the others, by name: by whole numbers without a common factor.

    All 1 if some images are in no such folder, as nothing says how these compare.
    """
    names = list(images)
    if any(name not in folders for name in names):
        return dict.fromkeys(names, 1)
    divisor = gcd(*(folders[name].repeats for name in names))
    return {name: folders[name].repeats // divisor for name in names}
