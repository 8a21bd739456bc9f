"""How far the colors of an image reach: whether it is of one color, or faded. Knows no files."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from PIL import Image

SIDE = 128  # pixels, to which an image is reduced, which averages the noise of a camera; our choice
OUTLIERS = 0.5  # percent of the pixels at either end, which do not count: dust, a date, hot pixels; our choice
ONE_COLOR = 12.0  # levels of 255: JPEG and the noise of a camera stay below; our choice
FADED = 64.0  # levels of 255, a quarter of the range: the photographs of docs/dataset.md have 90 or more; our choice
FADED_TONES = "faded"
DARK, LIGHT = 48, 208  # levels of 255, of a color that is called black or white; our choice


@dataclass(frozen=True, slots=True)
class Tones:
    """The range of levels of an image, 0 to 255."""

    range: float  # of the channel with the widest one, without outliers
    darkest: float  # median of the darkest channel
    lightest: float

    @classmethod
    def of(cls, image: Image.Image) -> Self:
        """The tones of an RGB image."""
        factor = -(-max(image.size) // SIDE)
        levels = np.asarray(image.reduce(factor) if factor > 1 else image).reshape(-1, 3)
        low, middle, high = np.percentile(levels, [OUTLIERS, 50, 100 - OUTLIERS], axis=0)
        return cls(float((high - low).max()), float(middle.min()), float(middle.max()))

    def fault(self) -> str | None:
        """What is wrong with the tones, or None: FADED_TONES, or the color of an image that has only one."""
        if self.range > ONE_COLOR:
            return FADED_TONES if self.range < FADED else None
        if self.lightest < DARK:
            return "black"
        return "white" if self.darkest > LIGHT else "of one color"
