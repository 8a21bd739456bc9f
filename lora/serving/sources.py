"""The source image of image to image, and the mask of inpainting. Knows files, no pipeline."""

import math
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from lora.checks import check_float
from lora.images.files import DecodedImage, ScaleNeeded, full_size, open_image, quiet_pillow
from lora.images.masks import fit_mask, open_mask
from lora.images.size import REDUCING_GAP, Size
from lora.serving.inpainting import Inpainting

MAX_PIXELS = 50_000_000  # of a request's image or mask; fewer than in training, because other requests wait
LEAST_STRENGTH = 1e-6  # less is 0, such as the rounding error 0.1 + 0.2 - 0.3; diffusers has no step for it
PIXELS_NEEDED = 1024 * 1024  # the native size of the published bases


@dataclass(frozen=True, slots=True)
class Source:
    """A source image and its mask, upright."""

    decoded: DecodedImage  # at full size if there is a mask
    mask: Image.Image | None  # L, of any size, white where the image is regenerated; None regenerates all of it
    strength: float  # 0 keeps the image, 1 ignores it

    def fitted(self, size: Size, *, latent_pixels: int) -> "FittedSource":
        """Return the source at the size of generation.

        Without a mask the image is resized to cover that size and cropped in the center. With a mask it is stretched,
        because nothing of it may be lost: the result has the image's own size again. A latent of the base holds
        `latent_pixels` pixels along each side.
        """
        mask = self.fitted_mask(size)
        if mask is None:
            return FittedSource(self.decoded.fitted(size), None, self.strength)
        original = self.decoded.image
        stretched = original.resize((size.width, size.height), Image.Resampling.LANCZOS, reducing_gap=REDUCING_GAP)
        return FittedSource(stretched, Inpainting.of(original, mask, latent_pixels=latent_pixels), self.strength)

    def fitted_mask(self, size: Size) -> Image.Image | None:
        """Return the mask stretched to a size, black and white."""
        return self.mask and fit_mask(self.mask, size, size)

    def output_size(self, size: Size) -> Size:
        """Return the size of the images that are generated at `size`: with a mask, the image's own."""
        return self.decoded.original if self.mask else size


@dataclass(frozen=True, slots=True)
class FittedSource:
    """A source at the size of generation, a multiple of 16."""

    image: Image.Image  # RGB
    inpainting: Inpainting | None
    strength: float

    @property
    def unchanged(self) -> Image.Image | None:
        """The result if nothing is to be regenerated, because the strength is 0 or the mask is black, else None."""
        is_black = self.inpainting is not None and self.inpainting.is_black
        if self.strength != 0 and not is_black:
            return None
        return self.inpainting.original if self.inpainting else self.image


def read_source(image: Path | None, mask: Path | None, prompt_strength: object) -> Source | None:
    """Read the source from the inputs of a request; return None if there is no image.

    Raises ValueError with one sentence that names the input.
    """
    strength = check_float("prompt_strength", prompt_strength, at_least=0.0, at_most=1.0)
    strength = strength if strength >= LEAST_STRENGTH else 0.0
    if image is None:
        if mask is not None:
            raise ValueError("mask is given without image: expected both, or no mask")
        return None
    if mask is None:
        return Source(_image(image, _scale_needed), None, strength)
    return Source(_image(image, full_size), _mask(mask), strength)


def _image(path: Path, scale_needed: ScaleNeeded) -> DecodedImage:
    try:
        with quiet_pillow():
            return open_image(path, scale_needed, most_pixels=MAX_PIXELS)
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
