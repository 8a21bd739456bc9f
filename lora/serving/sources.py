"""The image that a request begins with, and the mask of what is to be drawn anew. Knows files, no pipeline."""

import math
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from lora.checks import number
from lora.images.files import Picture, open_image, quiet_pillow
from lora.images.masks import fit_mask, open_mask
from lora.images.size import Size

MOST_PIXELS = 50_000_000  # of a request's image or mask; fewer than in training, as others wait for it
PIXELS_NEEDED = 1024 * 1024  # at which FLUX.1 draws


@dataclass(frozen=True, slots=True)
class Source:
    """What to begin with, upright."""

    picture: Picture
    mask: Image.Image | None  # L, white where it is drawn anew, of any size; None draws all of it anew
    strength: float  # 0 leaves the image as it is, 1 forgets it

    def fitted(self, size: Size) -> "Fitted":
        """At a size: resized to cover it, what stands over cut on both sides; the mask in hard pixels."""
        return Fitted(self.picture.fitted(size), self.fitted_mask(size), self.strength)

    def fitted_mask(self, size: Size) -> Image.Image | None:
        """The mask at a size, black and white."""
        return self.mask and fit_mask(self.mask, self.picture.original, size)


@dataclass(frozen=True, slots=True)
class Fitted:
    """A source at the size at which it is drawn from."""

    image: Image.Image  # RGB
    mask: Image.Image | None  # L, black and white
    strength: float


def read_source(image: Path | None, mask: Path | None, prompt_strength: object) -> Source | None:
    """From the inputs as they arrive; None without an image. Raises ValueError with one sentence naming the input."""
    strength = number("prompt_strength", prompt_strength, at_least=0.0, at_most=1.0)
    if image is None:
        if mask is not None:
            raise ValueError("mask is given without image: expected the image that it is for")
        return None
    return Source(_image(image), _mask(mask) if mask else None, strength)


def _image(path: Path) -> Picture:
    try:
        with quiet_pillow():
            return open_image(path, _scale_needed, most_pixels=MOST_PIXELS)
    except (OSError, ValueError) as error:
        raise ValueError(f"image cannot be drawn from: {error}") from error


def _mask(path: Path) -> Image.Image:
    try:
        with quiet_pillow():
            return open_mask(path, most_pixels=MOST_PIXELS)
    except (OSError, ValueError) as error:
        raise ValueError(f"mask cannot be used: {error}") from error


def _scale_needed(original: Size) -> float:
    return min(math.sqrt(PIXELS_NEEDED / original.pixels), 1.0)
