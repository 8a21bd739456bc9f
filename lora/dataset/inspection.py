"""Inspects an image file once: its properties, its training crops, and what a report shows about it."""

import hashlib
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from lora.dataset.crops import SMALLEST_CROP, WHOLE, Crop, crop_box, crops_of
from lora.dataset.mask_settings import NO_MASKS, MaskSettings
from lora.dataset.pixels import Pixels, PixelStore
from lora.dataset.shared_sizes import OWN_SIZES, share_sizes
from lora.dataset.sharpness import blur_of
from lora.dataset.sizes import training_sizes
from lora.dataset.thumbnails import Thumbnail
from lora.dataset.tones import Tones
from lora.images.files import DecodedImage, open_image, upright_size
from lora.images.size import Size, cover_scale

STORE_RATIO = 2.0  # decoded pixels per stored pixel, above which crops are stored instead of decoded again; our choice
INSPECTED_SIDE = 512  # pixels: enough to measure tones and to find near-duplicates; our choice


@dataclass(frozen=True, slots=True)
class Inspection:
    """The properties of an image file."""

    content: str  # sha256 of the file
    original: Size  # upright
    crops: tuple[Crop, ...]  # used in training, smallest first
    blur: float | None  # at its sharpest edges, in pixels of its largest training size; None without edges
    tones: Tones
    thumbnail: Thumbnail
    is_animated: bool
    is_cutout: bool  # some of it is transparent, if masks are used

    @property
    def sizes(self) -> tuple[Size, ...]:
        """The training sizes, smallest first."""
        return tuple(dict.fromkeys(crop.size for crop in self.crops))


class Inspector:
    """Decodes images into their training crops. Thread-safe; only one large image is decoded at a time."""

    def __init__(
        self,
        resolutions: tuple[int, ...],
        store: PixelStore | None,
        *,
        crops: int,
        batch_size: int = 1,
        masks: MaskSettings = NO_MASKS,
    ) -> None:
        """`crops` is the number of crops of each image at each size, and `batch_size` that of images of one size that
        are trained together. Without masks that have an effect, transparency is white and nothing else."""
        self._resolutions, self._store, self._crops, self._batch_size = resolutions, store, crops, batch_size
        self.masks = masks
        self._shared = OWN_SIZES
        self.large = threading.Lock()  # held while a large image, or a large mask, is in memory

    def share_sizes(self, paths: Iterable[Path]) -> str:
        """Choose sizes that fill batches with these images, before any of them is inspected; returns what was done for
        the log, or an empty text. With a batch size of 1 every image has its own size."""
        if self._batch_size > 1:
            sizes = (size for size in map(upright_size, paths) if size)
            self._shared = share_sizes(sizes, resolutions=self._resolutions, batch_size=self._batch_size)
        return self._shared.note

    def inspect(self, path: Path) -> Inspection:
        """Decode an image, and store its crops if reading them is faster than decoding the image again.

        Raises ValueError with the reason if the image cannot be used in training.
        """
        decoded = self._open(path)
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        crops = crops_of(self._sizes(decoded.original), count=self._crops)
        largest = [crop for crop in crops if crop.number == WHOLE][-1]
        whole, small = _cropped(decoded, largest, content), reduced(decoded.image)
        self._store_crops(decoded, crops, content, {largest: whole})
        return Inspection(
            content=content,
            original=decoded.original,
            crops=crops,
            blur=blur_of(whole),
            tones=Tones.of(small),
            thumbnail=Thumbnail.of(small),
            is_animated=decoded.is_animated,
            is_cutout=decoded.is_cutout,
        )

    def _store_crops(
        self, decoded: DecodedImage, crops: Sequence[Crop], content: str, made: Mapping[Crop, Image.Image]
    ) -> None:
        """Store the crops, of which some are made, if reading them is faster than decoding the image again."""
        stored_pixels = sum(crop.size.pixels for crop in crops if crop.number == WHOLE)
        if self._store and decoded.decoded_pixels > STORE_RATIO * stored_pixels:
            for crop in crops:
                self._store.put(content, crop, made.get(crop) or _cropped(decoded, crop, content))

    def pixels(self, path: Path, content: str, crops: Sequence[Crop]) -> list[Pixels]:
        """Pixels [H, W, 3] of some crops of an image: read from the store, or decoded again with the same result."""
        stored = [self._store.get(content, crop) if self._store else None for crop in crops]
        found = [pixels for pixels in stored if pixels is not None]
        if len(found) == len(crops):
            return found
        decoded = self._open(path)
        return [np.asarray(_cropped(decoded, crop, content)) for crop in crops]

    def _open(self, path: Path) -> DecodedImage:
        return open_image(path, self._scale_needed, large=self.large, finds_cutouts=self.masks.have_effect)

    def _scale_needed(self, original: Size) -> float:
        enlarged = 1.0 if self._crops == 1 else 1 / SMALLEST_CROP
        return max(cover_scale(original, size) for size in self._sizes(original)) * enlarged

    def _sizes(self, original: Size) -> list[Size]:
        return self._shared.sizes(original, training_sizes(original, resolutions=self._resolutions))


def _cropped(decoded: DecodedImage, crop: Crop, content: str) -> Image.Image:
    return decoded.fitted(crop.size, crop_box(decoded.box, crop, content=content))


def reduced(image: Image.Image) -> Image.Image:
    """The image, reduced by a whole factor to the size that tones and thumbnail need."""
    factor = -(-max(image.size) // INSPECTED_SIDE)
    return image.reduce(factor) if factor > 1 else image
