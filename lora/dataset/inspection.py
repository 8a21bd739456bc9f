"""One image file is looked at, once: what it is, what it will be trained as, and what a person may want to know."""

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from lora.dataset.crops import SMALLEST_CROP, WHOLE, Crop, crops_of, seen
from lora.dataset.pixels import Pixels, PixelStore
from lora.dataset.similarity import PerceptualHash, perceptual_hash, sharpness
from lora.dataset.sizes import training_sizes
from lora.images.files import Picture, open_image
from lora.images.size import Size, cover_scale

WORTH_KEEPING = 2.0  # pixels to be decoded for each that is kept: writing and reading them takes its time, too
LOOKED_AT_SIDE = 512  # pixels that suffice to tell whether a picture is sharp, and which others it is like


@dataclass(frozen=True, slots=True)
class Look:
    """What an image turned out to be."""

    content: str  # sha256 of the file
    original: Size  # upright
    views: tuple[Crop, ...]  # as which it is trained, smallest first
    sharpness: float
    perceptual_hash: PerceptualHash
    is_animated: bool

    @property
    def sizes(self) -> tuple[Size, ...]:
        """That it is trained at, smallest first."""
        return tuple(dict.fromkeys(view.size for view in self.views))


class Inspector:
    """Decodes images for their views; several threads may use it at once, and take turns at large images."""

    def __init__(self, resolutions: tuple[int, ...], store: PixelStore | None, *, views: int) -> None:
        """So many views of each image at each size."""
        self._resolutions, self._store, self._views = resolutions, store, views
        self._large = threading.Lock()

    def look(self, path: Path) -> Look:
        """Decode an image, and keep its fitted pictures where decoding it again would take longer than reading them.

        Raises ValueError with the reason if it cannot be trained.
        """
        picture = self._open(path)
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        views = crops_of(training_sizes(picture.original, resolutions=self._resolutions), count=self._views)
        kept_pixels = sum(view.size.pixels for view in views if view.number == WHOLE)
        if self._store and picture.decoded > WORTH_KEEPING * kept_pixels:
            for view in views:
                self._store.put(content, view, _shown(picture, view, content))
        shown = _shrunk(picture.image)
        return Look(content, picture.original, views, sharpness(shown), perceptual_hash(shown), picture.is_animated)

    def pixels(self, path: Path, content: str, views: Sequence[Crop]) -> list[Pixels]:
        """Pixels [H, W, 3] of some views of an image: those that were kept, or the same made anew."""
        kept = [self._store.get(content, view) if self._store else None for view in views]
        found = [pixels for pixels in kept if pixels is not None]
        if len(found) == len(views):
            return found
        picture = self._open(path)
        return [np.asarray(_shown(picture, view, content)) for view in views]

    def _open(self, path: Path) -> Picture:
        return open_image(path, self._scale_needed, large=self._large)

    def _scale_needed(self, original: Size) -> float:
        sizes = training_sizes(original, resolutions=self._resolutions)
        enlarged = 1.0 if self._views == 1 else 1 / SMALLEST_CROP
        return max(cover_scale(original, size) for size in sizes) * enlarged


def _shown(picture: Picture, view: Crop, content: str) -> Image.Image:
    return picture.fitted(view.size, seen(picture.box, view, content=content))


def _shrunk(picture: Image.Image) -> Image.Image:
    """As large as it has to be for what is told of a picture by its pixels."""
    factor = -(-max(picture.size) // LOOKED_AT_SIDE)
    return picture.reduce(factor) if factor > 1 else picture
