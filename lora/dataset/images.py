"""One image file becomes an upright RGB picture, or one reason why not. Knows no archive and no caption."""

import warnings
from pathlib import Path

from PIL import ExifTags, Image, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP")
SHORTEST_SIDE = 64
LONGEST_RATIO = 8
TURNS = {  # by EXIF's numbers for where the top left corner is
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
MOST_PIXELS = 178_956_970  # where Pillow itself speaks of a decompression bomb


def open_picture(path: Path) -> Image.Image:
    """Decode a file whole: turned as its EXIF says, transparency on white, RGB.

    Raises ValueError with the reason, without naming the file, if it cannot be a training image.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # large is fine; the error stays
            return _decode(path)
    except UnidentifiedImageError as error:
        raise ValueError(f"not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot be decoded ({error})".replace(str(path), "it")) from error


def _decode(path: Path) -> Image.Image:
    with Image.open(path, formats=FORMATS) as image:
        _refuse_size(image)
        image.load()
        return _on_white(_upright(image))


def _refuse_size(image: Image.Image) -> None:
    """By the header alone, before any pixel takes memory."""
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise ValueError(f"{width}x{height} is too large: expected at most {MOST_PIXELS:,} pixels")
    if min(width, height) < SHORTEST_SIDE:
        raise ValueError(f"{width}x{height} is too small: expected at least {SHORTEST_SIDE} pixels a side")
    if max(width, height) > LONGEST_RATIO * min(width, height):
        raise ValueError(f"{width}x{height} is too long: expected at most {LONGEST_RATIO} to 1")


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF says. `ImageOps.exif_transpose` writes the other tags anew, and fails where they are odd."""
    orientation = image.getexif().get(ExifTags.Base.Orientation)
    turn = TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return image.point(lambda value: value / 256).convert("L").convert("RGB")  # convert alone clips at 255
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
