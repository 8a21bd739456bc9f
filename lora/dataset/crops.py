"""An image is trained as it is and in a few crops, each nearly whole: few images are otherwise learned by heart, edges
and all. Knows boxes, not pixels."""

import random
from dataclasses import dataclass

from lora.images.size import Box, Size

SMALLEST_CROP, LARGEST_CROP = 0.945, 0.99  # of each side, in a crop
WHOLE = 0


@dataclass(frozen=True, slots=True, order=True)
class Crop:
    """An image at a training size, whole or in a crop."""

    size: Size
    number: int  # WHOLE, or that of the crop

    def __str__(self) -> str:
        return f"{self.size}-{self.number}" if self.number else str(self.size)


def crops_of(sizes: list[Size], *, count: int) -> tuple[Crop, ...]:
    """So many views at each size, the whole one first."""
    return tuple(Crop(size, number) for size in sizes for number in range(count))


def seen(box: Box, view: Crop, *, content: str) -> Box:
    """What a view shows of a box (left, top, right, bottom): a part of the same shape, always the same one for an image
    of this content (sha256 of its file) and the number of the view."""
    if view.number == WHOLE:
        return box
    rng, (left, top, right, bottom) = random.Random(f"{content} {view.number}"), box
    share = rng.uniform(SMALLEST_CROP, LARGEST_CROP)
    width, height = (right - left) * share, (bottom - top) * share
    left, top = rng.uniform(left, right - width), rng.uniform(top, bottom - height)
    return left, top, left + width, top + height
