"""The paths under which captions are written, from which they are read again for the same images."""

import itertools
from collections.abc import Iterable

from lora.dataset.names import sanitize_path
from lora.dataset.reading import CaptionedImage

SUFFIX = ".txt"


def caption_paths(images: Iterable[CaptionedImage]) -> dict[str, CaptionedImage]:
    """Images by the relative paths of their caption files: the name without its suffix, or with suffix or a number if
    that name is taken."""
    files: dict[str, CaptionedImage] = {}
    for image in images:
        path = sanitize_path(image.name)
        numbered = (f"{path}-{number}" for number in itertools.count(2))
        names = itertools.chain([str(path.with_suffix("")), str(path)], numbered)
        files[next(f"{name}{SUFFIX}" for name in names if f"{name}{SUFFIX}" not in files)] = image
    return files
