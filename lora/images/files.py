"""One image file becomes an upright RGB picture, or one reason why not. Knows no archive and no caption."""

import math
import re
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pi_heif import HeifImageFile
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from lora.images.colors import rgb_on_white
from lora.images.size import Box, Size, fit

BLOCK = 2**20  # bytes that are read at a time: little enough to be cancelled between two of them
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
READABLE = "JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF or HEIC"
ANIMATIONS = ("PNG", "WEBP", "GIF", "TIFF", "AVIF")  # a JPEG's or HEIC's other pictures are previews and the like
BOX_HEADER, MOST_ITEM_BYTES = 8, 64 * 1024
START_OF_SCAN, MOST_SCANS = b"\xff\xda", 500  # a progressive JPEG has ten or so
MOST_PIXELS_OF_SCANS = 2_500_000_000  # of all of them together: some seconds
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
SHORTEST_SIDE = 64
LONGEST_RATIO = 8
MOST_PIXELS = 178_956_970  # where Pillow itself speaks of a decompression bomb
LARGE_PIXELS = 16_000_000  # a few of these at once would fill the memory
UNGUARDED: AbstractContextManager[object] = nullcontext()
# A picture decoded this much larger than it is needed scales down as one decoded whole does, photographs to 45 dB and
# more. What JPEG scales itself is sharper than the means of squares.
HEADROOM_OF_DRAFTS, HEADROOM_OF_MEANS = 1.5, 2.0
EXIF_TRANSPOSES = {  # by EXIF's numbers for where the top left corner is
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ON_ITS_SIDE = {EXIF_TRANSPOSES[number] for number in (5, 6, 7, 8)}
RIGHT_TO_LEFT = {EXIF_TRANSPOSES[number] for number in (2, 3, 6, 7)}
BOTTOM_UP = {EXIF_TRANSPOSES[number] for number in (3, 4, 7, 8)}
# what Pillow, libheif and their decoders raise at bytes that are no image, besides a plain ValueError
DAMAGE = (
    OSError,
    SyntaxError,
    EOFError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AssertionError,
    struct.error,
)

ScaleNeeded = Callable[[Size], float]


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded image, upright, in RGB."""

    image: Image.Image  # may be smaller than the original where less was needed
    box: Box  # what of it the original takes: of a smaller one's last pixels, a fraction
    original: Size  # upright
    decoded: int  # pixels that had to be decoded for it: of a JPEG they may be fewer than the original's
    is_animated: bool  # of which this is the first frame

    def fitted(self, size: Size, box: Box | None = None) -> Image.Image:
        """The picture, or a box of it, at a training size."""
        return fit(self.image, size, box or self.box)


def whole(_original: Size) -> float:
    """Every pixel is needed."""
    return 1.0


def open_image(
    path: Path,
    scale_needed: ScaleNeeded = whole,
    *,
    large: AbstractContextManager[object] = UNGUARDED,
    most_pixels: int = MOST_PIXELS,
) -> Picture:
    """Decode a file: turned as its EXIF says, transparency on white, RGB.

    `scale_needed` is told the size of the image (perhaps lying on its side) and answers how much of it will be used at
    the most, 1 for all; what is much larger is scaled down while it is decoded. `large` is held while a large image
    is in memory. Raises ValueError with the reason, without naming the file, if it cannot be decoded or is too small,
    too long, or larger than `most_pixels`.
    """
    with reasons(path), opened(path) as image:
        original = Size(*image.size)
        refuse_size(original, most_pixels=most_pixels)
        if image.format in ("JPEG", "MPO"):
            _refuse_scans(path, original)
        is_large = original.width * original.height > LARGE_PIXELS
        with large if is_large else UNGUARDED:
            return _decode(image, original, needed=scale_needed(original))


@contextmanager
def reasons(path: Path) -> Iterator[None]:
    """What a file's reading may raise becomes a ValueError with the reason, without the file's name."""
    try:
        yield
    except _UnfitError:
        raise
    except UnidentifiedImageError as error:
        raise ValueError(f"not a {READABLE} image") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"too large: expected at most {MOST_PIXELS:,} pixels") from error
    except DAMAGE as error:
        said = " ".join(str(error).replace(str(path), "it").split())
        raise ValueError(f"cannot be decoded ({said or 'it is damaged'})") from error


def is_image(path: Path) -> bool:
    """Whether a file is an image of a kind that is read, by its content; it may still be damaged."""
    try:
        with opened(path):
            return True
    except (*DAMAGE, Image.DecompressionBombError) as error:
        return isinstance(error, Image.DecompressionBombError)


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Without Pillow's warnings: large is fine, and so are odd tags; the errors stay.

    For one thread to hold while others decode, as filters of warnings belong to the process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


class _UnfitError(ValueError):
    """An image that is whole, and unfit for training."""


@contextmanager
def opened(path: Path) -> Iterator[ImageFile.ImageFile]:
    """The file's header, if it is of a kind that is read. Pillow's list of formats is left as it is: HEIC is opened by
    its own class. Raises one of DAMAGE."""
    with path.open("rb") as file, _heic(file) if _is_heic(file) else Image.open(file, formats=FORMATS) as image:
        yield image


def _is_heic(file: BinaryIO) -> bool:
    """By its brands; `mif1` alone says nothing, and is an AVIF's too."""
    start = file.read(64)
    file.seek(0)
    brands = start[8 : int.from_bytes(start[:4])]
    return start[4:8] == b"ftyp" and brands[:4] in HEIC_BRANDS and b"avif" not in brands


def _heic(file: BinaryIO) -> HeifImageFile:
    """Raises ValueError where the names of its items are not UTF-8: pi-heif takes the whole process down at those."""
    for box in _boxes(file.read()):
        for item in re.finditer(b"infe", box):
            start, version = item.start() - 4, box[item.end() : item.end() + 1]
            size = int.from_bytes(box[max(start, 0) : item.start()])
            names = box[start + (18 if version == b"\3" else 16) : start + min(size, MOST_ITEM_BYTES)]
            if not 1 < size < MOST_ITEM_BYTES or not _is_text(names):
                raise ValueError("its list of contents is damaged")
    return HeifImageFile(file)


def _boxes(content: bytes) -> Iterator[bytes]:
    """The outermost boxes of a HEIC, but for those of pixels alone."""
    position = 0
    while position < len(content):
        size, kind = int.from_bytes(content[position : position + 4]), content[position + 4 : position + 8]
        if size == 1:
            size = int.from_bytes(content[position + 8 : position + 16])
        size = size or len(content) - position
        if size < BOX_HEADER:
            raise ValueError("its boxes do not add up")
        if kind != b"mdat":
            yield content[position : position + size]
        position += size


def _refuse_scans(path: Path, size: Size) -> None:
    """A JPEG is decoded once for each of its scans, and thousands of them take few bytes."""
    scans, last = 0, b""
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            scans += (last + block).count(START_OF_SCAN)
            last = block[-1:]
    most = min(MOST_SCANS, MOST_PIXELS_OF_SCANS // size.pixels)
    if scans > most:
        raise ValueError(f"it has {scans:,} scans: expected at most {most}")


def _is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _decode(image: ImageFile.ImageFile, original: Size, *, needed: float) -> Picture:
    is_animated = image.format in ANIMATIONS and getattr(image, "is_animated", False)  # counting them takes its time
    least = needed * HEADROOM_OF_DRAFTS  # of JPEG alone; nothing else can be drafted
    drafted = image.draft(None, (math.ceil(original.width * least), math.ceil(original.height * least)))
    image.load()
    width, height = drafted[1][2:] if drafted else image.size
    factor = max(int(width / (original.width * needed * HEADROOM_OF_MEANS)), 1)
    box = 0.0, 0.0, width / factor, height / factor
    decoded = image.width * image.height
    picture = Picture(rgb_on_white(image, shrink_by=factor), box, original, decoded, is_animated)
    turn = upright_transpose(image)  # after load, which turns a TIFF itself
    return picture if turn is None else _turned(picture, turn)


def _turned(picture: Picture, turn: Image.Transpose) -> Picture:
    image, original = picture.image.transpose(turn), picture.original
    width, height = picture.box[2:]
    if turn in ON_ITS_SIDE:
        width, height, original = height, width, Size(original.height, original.width)
    left, right = (image.width - width, image.width) if turn in RIGHT_TO_LEFT else (0.0, width)
    top, bottom = (image.height - height, image.height) if turn in BOTTOM_UP else (0.0, height)
    return Picture(image, (left, top, right, bottom), original, picture.decoded, picture.is_animated)


def upright_transpose(image: Image.Image) -> Image.Transpose | None:
    """What makes an image upright. By hand, as `ImageOps.exif_transpose` fails where other tags are odd; and EXIF that
    cannot be read says nothing."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except DAMAGE:
        return None
    return EXIF_TRANSPOSES.get(orientation) if isinstance(orientation, int) else None


def refuse_size(size: Size, *, most_pixels: int) -> None:
    """By the header alone, before any pixel takes memory."""
    found = f"{size.width}x{size.height}"
    if size.pixels > most_pixels:
        raise _UnfitError(f"{found} is too large: expected at most {most_pixels:,} pixels")
    if min(size.width, size.height) < SHORTEST_SIDE:
        raise _UnfitError(f"{found} is too small: expected at least {SHORTEST_SIDE} pixels a side")
    if max(size.width, size.height) > LONGEST_RATIO * min(size.width, size.height):
        raise _UnfitError(f"{found} is too long: expected at most {LONGEST_RATIO} to 1")
