"""The source image of image to image, and the mask of inpainting. Knows files, no pipeline."""

import math
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from lora.checks import check_float
from lora.images.files import DecodedImage, open_image, quiet_pillow
from lora.images.masks import fit_mask, open_mask
from lora.images.size import Size

MAX_PIXELS = 50_000_000  # of a request's image or mask; fewer than in training, because other requests wait
PIXELS_NEEDED = 1024 * 1024  # the native size of FLUX.1


@dataclass(frozen=True, slots=True)
class Source:
    """A source image and its mask, upright."""

    decoded: DecodedImage
    mask: Image.Image | None  # L, of any size, white where the image is regenerated; None regenerates all of it
    strength: float  # 0 keeps the image, 1 ignores it

    def fitted(self, size: Size) -> "FittedSource":
        """Return the source at a size: the image is resized to cover it and cropped in the center."""
        return FittedSource(self.decoded.fitted(size), self.fitted_mask(size), self.strength)

    def fitted_mask(self, size: Size) -> Image.Image | None:
        """Return the mask at a size, black and white."""
        return self.mask and fit_mask(self.mask, self.decoded.original, size)


@dataclass(frozen=True, slots=True)
class FittedSource:
    """A source at the size of the output."""

    image: Image.Image  # RGB
    mask: Image.Image | None  # L, black and white
    strength: float


def read_source(image: Path | None, mask: Path | None, prompt_strength: object) -> Source | None:
    """Read the source from the inputs of a request; return None if there is no image.

    Raises ValueError with one sentence that names the input.
    """
    strength = check_float("prompt_strength", prompt_strength, at_least=0.0, at_most=1.0)
    if image is None:
        if mask is not None:
            raise ValueError("mask is given without image: expected both, or no mask")
        return None
    return Source(_image(image), _mask(mask) if mask else None, strength)


def _image(path: Path) -> DecodedImage:
    try:
        with quiet_pillow():
            return open_image(path, _scale_needed, most_pixels=MAX_PIXELS)
    except (OSError, ValueError) as error:
        raise ValueError(f"image cannot be used: {error}") from error


def _mask(path: Path) -> Image.Image:
    try:
        with quiet_pillow():
            return open_mask(path, most_pixels=MAX_PIXELS)
    except (OSError, ValueError) as error:
        raise ValueError(f"mask cannot be used: {error}") from error


def _scale_needed(original: Size) -> float:
    return min(math.sqrt(PIXELS_NEEDED / original.pixels), 1.0)
