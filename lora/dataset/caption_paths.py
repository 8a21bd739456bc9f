"""The paths under which captions are written, from which they are read again for the same images."""

import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

from lora.dataset.names import sanitize_path
from lora.dataset.reading import CaptionedImage

SUFFIX = ".txt"


def caption_paths(images: Sequence[CaptionedImage]) -> dict[str, CaptionedImage]:
    """Images by the relative paths of their caption files: the name without its suffix, or with it if that could be the
    caption of another image, too. Names that are the same get a number, under which captions are not found again."""
    meant = Counter(name for image in images for name in _names(sanitize_path(image.name)))
    files: dict[str, CaptionedImage] = {}
    for image in images:
        path = sanitize_path(image.name)
        stem = path.with_suffix("")
        first = stem if meant[str(stem).casefold()] == 1 else path
        names = itertools.chain([str(first)], (f"{path}-{number}" for number in itertools.count(2)))
        files[next(f"{name}{SUFFIX}" for name in names if f"{name}{SUFFIX}" not in files)] = image
    return files


def _names(path: PurePosixPath) -> set[str]:
    """What a caption file may be called that belongs to an image (lora/dataset/pairing.py), without its own suffix."""
    return {str(path).casefold(), str(path.with_suffix("")).casefold()}
