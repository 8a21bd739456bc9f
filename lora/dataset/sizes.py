"""Which size an image is trained at, and how it gets there. Knows no latents and no caption."""

import itertools
import math
from dataclasses import dataclass

from PIL import Image, ImageOps

STEP = 16  # FLUX's tokens are 16 pixels a side
MOST_UPSCALING = 1.1


@dataclass(frozen=True, slots=True, order=True)
class Size:
    """Pixels."""

    width: int
    height: int


def training_size(original: Size, *, resolution: int) -> Size:
    """The size nearest in shape to the original whose sides are multiples of 16 and area is at most resolution².

    An image too small for the resolution is trained as large as it is; nothing is enlarged by more than a tenth.
    """
    area = original.width * original.height
    scale = min(resolution / math.sqrt(area), MOST_UPSCALING)
    widths = _steps_around(original.width * scale, at_most=original.width * MOST_UPSCALING)
    heights = _steps_around(original.height * scale, at_most=original.height * MOST_UPSCALING)
    fitting = [Size(w, h) for w, h in itertools.product(widths, heights) if w * h <= max(resolution, STEP) ** 2]
    return max(fitting, key=lambda size: (-_distortion(size, original), size.width * size.height))


def fit(picture: Image.Image, size: Size) -> Image.Image:
    """Scale a picture to cover `size` and cut what stands over, the same on both sides: resized, never stretched."""
    return ImageOps.fit(picture, (size.width, size.height), method=Image.Resampling.LANCZOS)


def _steps_around(length: float, *, at_most: float) -> list[int]:
    """The multiples of 16 just below and above a length, as far as they are allowed; at least one."""
    below = max(STEP, math.floor(length / STEP) * STEP)
    above = below + STEP
    return [below, above] if above <= at_most else [below]


def _distortion(size: Size, original: Size) -> float:
    """How far the shape is from the original's, in steps of a side, to a precision where equal shapes tie."""
    ratio = math.log(size.width / size.height) - math.log(original.width / original.height)
    return round(abs(ratio) * max(size.width, size.height) / STEP, 2)
