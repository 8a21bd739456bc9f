"""One image file becomes an upright RGB picture, or one reason why not. Knows no archive and no caption."""

import math
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from pi_heif import HeifImageFile
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from lora.dataset.colors import rgb_on_white
from lora.dataset.sizes import Size

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
READABLE = "JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF or HEIC"
ANIMATIONS = ("PNG", "WEBP", "GIF", "TIFF", "AVIF")  # a JPEG's or HEIC's other pictures are previews and the like
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
SHORTEST_SIDE = 64
LONGEST_RATIO = 8
MOST_PIXELS = 178_956_970  # where Pillow itself speaks of a decompression bomb
LARGE_PIXELS = 30_000_000  # a few of these at once would fill the memory
UNGUARDED: AbstractContextManager[object] = nullcontext()
HEADROOM = 1.5  # a picture decoded this much larger than it is needed scales down as one decoded whole does: 53 dB
TURNS = {  # by EXIF's numbers for where the top left corner is
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ON_ITS_SIDE = {TURNS[number] for number in (5, 6, 7, 8)}
# what Pillow, libheif and their decoders raise at bytes that are no image, besides a plain ValueError
DAMAGE = (OSError, SyntaxError, EOFError, RuntimeError, ValueError, TypeError, IndexError, KeyError, struct.error)

ScaleNeeded = Callable[[Size], float]


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded image, upright, in RGB."""

    image: Image.Image  # may be smaller than the original where less was needed
    original: Size  # upright
    is_animated: bool  # of which this is the first frame


def whole(_original: Size) -> float:
    """Every pixel is needed."""
    return 1.0


def open_picture(
    path: Path, scale_needed: ScaleNeeded = whole, *, large: AbstractContextManager[object] = UNGUARDED
) -> Picture:
    """Decode a file: turned as its EXIF says, transparency on white, RGB.

    `scale_needed` is told the size of the image (perhaps lying on its side) and answers how much of it will be used at
    the most, 1 for all; what is much larger is scaled down while it is decoded. `large` is held while a large image
    is in memory. Raises ValueError with the reason, without naming the file, if it cannot be a training image.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # large is fine; the error stays
            with _opened(path) as image:
                original = Size(*image.size)
                _refuse_size(original)
                is_large = original.width * original.height > LARGE_PIXELS
                with large if is_large else UNGUARDED:
                    return _decode(image, original, scale=min(scale_needed(original) * HEADROOM, 1.0))
    except _UnfitError:
        raise
    except UnidentifiedImageError as error:
        raise ValueError(f"not a {READABLE} image") from error
    except (*DAMAGE, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot be decoded ({error})".replace(str(path), "it")) from error


def is_image(path: Path) -> bool:
    """Whether a file is an image of a kind that is read, by its content; it may still be damaged."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _opened(path):
                return True
    except (*DAMAGE, Image.DecompressionBombError) as error:
        return isinstance(error, Image.DecompressionBombError)


class _UnfitError(ValueError):
    """An image that is whole, and unfit for training."""


@contextmanager
def _opened(path: Path) -> Iterator[ImageFile.ImageFile]:
    """The file's header. Pillow's list of formats is left as it is: HEIC is opened by its own class."""
    with path.open("rb") as file:
        start = file.read(12)
        file.seek(0)
        is_heic = start[4:8] == b"ftyp" and start[8:] in HEIC_BRANDS
        with HeifImageFile(file) if is_heic else Image.open(file, formats=FORMATS) as image:
            yield image


def _decode(image: ImageFile.ImageFile, original: Size, *, scale: float) -> Picture:
    is_animated = image.format in ANIMATIONS and getattr(image, "n_frames", 1) > 1
    image.draft(None, (math.ceil(original.width * scale), math.ceil(original.height * scale)))  # of JPEG alone
    image.load()
    # After load, which turns a TIFF itself; and by hand, as `ImageOps.exif_transpose` fails where other tags are odd.
    orientation = image.getexif().get(ExifTags.Base.Orientation)
    factor = int(min(image.width / (original.width * scale), image.height / (original.height * scale)))
    turn = TURNS.get(orientation) if isinstance(orientation, int) else None
    upright = rgb_on_white(image, shrink_by=max(factor, 1))
    if turn is None:
        return Picture(upright, original, is_animated)
    size = Size(original.height, original.width) if turn in ON_ITS_SIDE else original
    return Picture(upright.transpose(turn), size, is_animated)


def _refuse_size(size: Size) -> None:
    """By the header alone, before any pixel takes memory."""
    found = f"{size.width}x{size.height}"
    if size.width * size.height > MOST_PIXELS:
        raise _UnfitError(f"{found} is too large: expected at most {MOST_PIXELS:,} pixels")
    if min(size.width, size.height) < SHORTEST_SIDE:
        raise _UnfitError(f"{found} is too small: expected at least {SHORTEST_SIDE} pixels a side")
    if max(size.width, size.height) > LONGEST_RATIO * min(size.width, size.height):
        raise _UnfitError(f"{found} is too long: expected at most {LONGEST_RATIO} to 1")
