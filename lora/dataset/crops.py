"""Random crops for data augmentation, each nearly the whole image: they reduce overfitting on few images.

Operates on boxes, not on pixels.
"""

import random
from dataclasses import dataclass

from lora.images.size import Box, Size

SMALLEST_CROP, LARGEST_CROP = 0.945, 0.99  # fraction of each side; our choice
WHOLE = 0


@dataclass(frozen=True, slots=True, order=True)
class Crop:
    """A crop of an image at a training size; the crop WHOLE is the full image."""

    size: Size
    number: int  # WHOLE, or the number of a random crop

    def __str__(self) -> str:
        return f"{self.size}-{self.number}" if self.number else str(self.size)


def crops_of(sizes: list[Size], *, count: int) -> tuple[Crop, ...]:
    """The crops at each size, `count` per size, the whole image first."""
    return tuple(Crop(size, number) for size in sizes for number in range(count))


def crop_box(box: Box, crop: Crop, *, content: str) -> Box:
    """The box of a crop inside `box` (left, top, right, bottom; in pixels), with the same aspect ratio.

    It is determined by `content`, the sha256 of the image file, and the number of the crop.
    """
    if crop.number == WHOLE:
        return box
    rng, (left, top, right, bottom) = random.Random(f"{content} {crop.number}"), box
    share = rng.uniform(SMALLEST_CROP, LARGEST_CROP)
    width, height = (right - left) * share, (bottom - top) * share
    left, top = rng.uniform(left, right - width), rng.uniform(top, bottom - height)
    return left, top, left + width, top + height
