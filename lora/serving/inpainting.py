"""Inpainting: which latents are regenerated, and how the image around them is kept. Knows no pipeline and no file.

The pipeline regenerates whole latents, and decodes all of them: no decoded pixel equals its source, not even where the
latents are those of the source. So the source is pasted back over the generated image.
"""

from dataclasses import dataclass
from typing import Self

from PIL import Image, ImageFilter

from lora.images.masks import fit_mask
from lora.images.size import Size

WHITE = 255


@dataclass(frozen=True, slots=True)
class Inpainting:
    """The part of an image that is regenerated, and the image that is kept around it."""

    original: Image.Image  # RGB, in the size of the result
    mask: Image.Image  # L, black and white, at the size of generation: white is regenerated
    opacity: Image.Image  # L, in the size of `original`: 255 shows the generated image alone, 0 the original alone
    latent_pixels: int  # image rows and columns that one latent holds

    @classmethod
    def of(cls, original: Image.Image, mask: Image.Image, *, latent_pixels: int) -> Self:
        """Return the inpainting of an image with a black and white mask at the size of generation."""
        feathered = _feathered(mask, latent_pixels)
        return cls(original, mask, feathered.resize(original.size, Image.Resampling.BILINEAR), latent_pixels)

    @property
    def is_black(self) -> bool:
        """Whether nothing is regenerated."""
        return self.mask.getbbox() is None

    def latent_mask(self) -> Image.Image:
        """Return the mask with every latent white that has a white pixel.

        The pipeline reads one pixel of each latent, and would not regenerate a spot that misses it.
        """
        size = Size(*self.mask.size)
        latents = Size(size.width // self.latent_pixels, size.height // self.latent_pixels)
        return fit_mask(self.mask, size, latents).resize(self.mask.size, Image.Resampling.NEAREST)

    def compose(self, generated: Image.Image) -> Image.Image:
        """Return the generated image, resized to the original, with the original around the regenerated part."""
        if generated.size != self.original.size:
            generated = generated.resize(self.original.size, Image.Resampling.LANCZOS)
        return Image.composite(generated, self.original, self.opacity)


def _feathered(mask: Image.Image, latent_pixels: int) -> Image.Image:
    """Return the mask with an edge that falls from white to black over two latents outside of it.

    A latent at the edge may hold regenerated pixels outside of the mask, 7 in FLUX.1 and 15 in FLUX.2, so one latent
    is too narrow to lead over to latents that were kept. White pixels stay white: all that the mask selects is
    regenerated. The mask is dilated by one latent and averaged over as much to each side, so the fall is linear and
    ends at exactly 0.
    """
    average = ImageFilter.BoxBlur(latent_pixels)
    dilated = mask.filter(average).point(lambda mean: WHITE if mean else 0)
    return dilated.filter(average)
