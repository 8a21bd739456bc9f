"""One image file is looked at, once: what it is, what it will be trained as, and what a person may want to know."""

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from lora.dataset.likeness import Likeness, likeness, sharpness
from lora.dataset.pixels import Pixels, PixelStore
from lora.dataset.sizes import training_sizes
from lora.pictures.files import Picture, open_picture
from lora.pictures.size import Size, cover_scale

WORTH_KEEPING = 2.0  # pixels to be decoded for each that is kept: writing and reading them takes its time, too
LOOKED_AT_SIDE = 512  # pixels that suffice to tell whether a picture is sharp, and which others it is like


@dataclass(frozen=True, slots=True)
class Look:
    """What an image turned out to be."""

    content: str  # sha256 of the file
    original: Size  # upright
    sizes: tuple[Size, ...]  # that it is trained at, smallest first
    sharpness: float
    likeness: Likeness
    is_animated: bool


class Inspector:
    """Decodes images for their training sizes; several threads may use it at once, and take turns at large images."""

    def __init__(self, resolutions: tuple[int, ...], store: PixelStore | None) -> None:
        self._resolutions, self._store = resolutions, store
        self._large = threading.Lock()

    def look(self, path: Path) -> Look:
        """Decode an image, and keep its fitted pictures where decoding it again would take longer than reading them.

        Raises ValueError with the reason if it cannot be trained.
        """
        picture = self._open(path)
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        sizes = tuple(training_sizes(picture.original, resolutions=self._resolutions))
        fitted_pixels = sum(size.pixels for size in sizes)
        if self._store and picture.decoded > WORTH_KEEPING * fitted_pixels:
            for size in sizes:
                self._store.put(content, picture.fitted(size))
        shown = _shrunk(picture.image)
        return Look(content, picture.original, sizes, sharpness(shown), likeness(shown), picture.is_animated)

    def pixels(self, path: Path, content: str, sizes: Sequence[Size]) -> list[Pixels]:
        """Pixels [H, W, 3] of an image at some of its training sizes: those that were kept, or the same made anew."""
        kept = [self._store.get(content, size) if self._store else None for size in sizes]
        found = [pixels for pixels in kept if pixels is not None]
        if len(found) == len(sizes):
            return found
        picture = self._open(path)
        return [np.asarray(picture.fitted(size)) for size in sizes]

    def _open(self, path: Path) -> Picture:
        return open_picture(path, self._scale_needed, large=self._large)

    def _scale_needed(self, original: Size) -> float:
        return max(cover_scale(original, size) for size in training_sizes(original, resolutions=self._resolutions))


def _shrunk(picture: Image.Image) -> Image.Image:
    """As large as it has to be for what is told of a picture by its pixels."""
    factor = -(-max(picture.size) // LOOKED_AT_SIDE)
    return picture.reduce(factor) if factor > 1 else picture
