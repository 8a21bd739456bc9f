"""A mask that somebody painted, in any kind of file: white is what is meant. Knows no image that it is for."""

from pathlib import Path

from PIL import Image

from lora.images.colors import bands, rgb_on_white
from lora.images.files import MOST_PIXELS, opened, reasons, refuse_size, upright_transpose
from lora.images.size import Size, center_crop_box

BRIGHT = 128  # of 255: from here on it is white; and where no paint is, the paint itself is what is meant


def open_mask(path: Path, *, most_pixels: int = MOST_PIXELS) -> Image.Image:
    """The mask in 8-bit gray, upright, as large as it is. 16 bits are scaled; of a mask with transparency, what is not
    painted is not meant. Raises ValueError with the reason, without naming the file, as `open_image` does."""
    with reasons(path), opened(path) as image:
        refuse_size(Size(*image.size), most_pixels=most_pixels)
        image.load()
        mask, turn = _gray(image), upright_transpose(image)
    return mask if turn is None else mask.transpose(turn)


def binarize(mask: Image.Image) -> Image.Image:
    """With nothing between."""
    return mask.point(lambda value: 255 if value >= BRIGHT else 0)


def fit_mask(mask: Image.Image, image: Size, size: Size) -> Image.Image:
    """A mask of any size, as what `fit` makes of the image that it is for: black and white, and white wherever
    any of the pixels is that become one, so that a small spot stays."""
    left, top, right, bottom = center_crop_box((0.0, 0.0, image.width, image.height), size)
    x, y = mask.width / image.width, mask.height / image.height
    middle = left * x, top * y, right * x, bottom * y
    means = binarize(mask).resize((size.width, size.height), Image.Resampling.BOX, middle)
    return means.point(lambda mean: 255 if mean else 0)


def _gray(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return rgb_on_white(image, shrink_by=1).convert("L")
    paint, alpha = Image.new("L", image.size), Image.new("L", image.size)
    for top, band in bands(image):
        layer = band.convert("RGBA")
        paint.paste(Image.alpha_composite(Image.new("RGBA", layer.size, "black"), layer).convert("L"), (0, top))
        alpha.paste(layer.getchannel("A"), (0, top))
    return paint if binarize(paint).getbbox() else alpha
