"""One image file is looked at, once: what it is, what it will be trained as, and what a person may want to know."""

import hashlib
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lora.dataset.images import open_picture
from lora.dataset.likeness import Likeness, likeness, sharpness
from lora.dataset.pixels import Pixels, PixelStore
from lora.dataset.sizes import Size, cover_scale, training_sizes


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
        """Decode an image and keep its fitted pictures; raises ValueError with the reason if it cannot be trained."""
        picture = open_picture(path, self._scale_needed, large=self._large)
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        sizes = training_sizes(picture.original, resolutions=self._resolutions)
        largest = picture.fitted(sizes[-1])
        if self._store:
            for size in sizes:
                self._store.put(content, largest if size == sizes[-1] else picture.fitted(size))
        return Look(content, picture.original, tuple(sizes), sharpness(largest), likeness(largest), picture.is_animated)

    def pixels(self, path: Path, content: str, size: Size) -> Pixels:
        """Pixels [H, W, 3] of an image at one of its training sizes: those that were kept, or the same made anew."""
        kept = self._store.get(content, size) if self._store else None
        if kept is not None:
            return kept
        return np.asarray(open_picture(path, self._scale_needed, large=self._large).fitted(size))

    def _scale_needed(self, original: Size) -> float:
        return max(cover_scale(original, size) for size in training_sizes(original, resolutions=self._resolutions))
