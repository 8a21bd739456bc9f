"""Decodes an image file into an upright RGB image, or raises an error with the reason. Knows no archive or caption."""

import math
import re
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from pi_heif import HeifImageFile
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from lora.images.boxes import boxes
from lora.images.colors import is_cutout, opacity, rgb_on_white
from lora.images.jpeg import MAGIC as JPEG_MAGIC
from lora.images.jpeg import count_scans
from lora.images.orientation import BOTTOM_UP, EXIF_TRANSPOSES, RIGHT_TO_LEFT, SWAPS_SIDES
from lora.images.signals import Signal, hdr_signal
from lora.images.size import Box, Size, fit

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
READABLE = "JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF or HEIC"
ANIMATIONS = ("PNG", "WEBP", "GIF", "TIFF", "AVIF")  # further images in a JPEG or HEIC are previews and the like
MAX_ITEM_BYTES = 64 * 1024
# Pixels, and the video of a motion photo. `free` too may hold anything, but is searched as decoders may look into it.
OPAQUE_BOXES = {b"mdat", b"mpvd", b"sefd"}
MAX_SCANS = 500  # a progressive JPEG has about ten
MAX_PIXELS_OF_SCANS = 2_500_000_000  # in total, which takes a few seconds
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
IMAGE_BRANDS = HEIC_BRANDS | {b"avif", b"avis"}
MAGICS = (JPEG_MAGIC, b"\x89PNG", b"RIFF", b"BM", b"GIF8", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
SHORTEST_SIDE = 64
LONGEST_RATIO = 8
MAX_PIXELS = 178_956_970  # above twice Image.MAX_IMAGE_PIXELS Pillow raises DecompressionBombError
LARGE_PIXELS = 16_000_000  # decoding several such images at once could exhaust the memory
NO_LOCK: AbstractContextManager[object] = nullcontext()
# An image that is decoded this much larger than needed, then resized, equals one decoded at full size: PSNR of at least
# 45 dB for photographs. The scaling of a JPEG decoder is sharper than the mean of squares.
HEADROOM_OF_DRAFTS, HEADROOM_OF_MEANS = 1.5, 2.0
# Raised by Pillow, libheif and their decoders for bytes that are not a valid image.
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
class DecodedImage:
    """A decoded image, upright, in RGB."""

    image: Image.Image  # may be smaller than the original if less was needed
    box: Box  # the part of it that the original covers: in a reduced image, the last pixels only partly
    original: Size  # upright
    decoded_pixels: int  # how many pixels were decoded; for a JPEG possibly fewer than the original has
    is_animated: bool  # if True, this is the first frame
    is_cutout: bool  # whether some of it is visible and some is transparent, if that was asked for

    def fitted(self, size: Size, box: Box | None = None) -> Image.Image:
        """The image, or a box of it, resized and cropped to `size`."""
        return fit(self.image, size, box or self.box)


def full_size(_original: Size) -> float:
    """The scale for an image that is needed at full size."""
    return 1.0


def open_image(
    path: Path,
    scale_needed: ScaleNeeded = full_size,
    *,
    large: AbstractContextManager[object] = NO_LOCK,
    most_pixels: int = MAX_PIXELS,
    finds_cutouts: bool = False,
) -> DecodedImage:
    """Decode an image file into RGB, with the EXIF orientation applied and transparency on white.

    `scale_needed` takes the size of the stored image (before it is rotated) and returns the largest scale that it will
    be used at, 1 for full size; a much larger image is reduced while it is decoded. `large` is entered while a large
    image is in memory. `finds_cutouts` tells cut-outs from other images, and refuses those of which nothing is visible.
    Raises ValueError with the reason, without the file name, if the image cannot be decoded or is
    too small, too long, or larger than `most_pixels`.
    """
    with decoding_errors(path), open_header(path) as image:
        original = Size(*image.size)
        refuse_size(original, most_pixels=most_pixels)
        if image.format == "JPEG":
            _refuse_scans(path, original)
        signal = hdr_signal(image, path)
        is_large = original.width * original.height > LARGE_PIXELS
        with large if is_large else NO_LOCK:
            return _decode(image, original, signal, needed=scale_needed(original), finds_cutouts=finds_cutouts)


@contextmanager
def decoding_errors(path: Path) -> Iterator[None]:
    """Convert errors of decoding a file into a ValueError with the reason, without the file name."""
    try:
        yield
    except _UnsupportedImageError:
        raise
    except UnidentifiedImageError as error:
        raise ValueError(f"not a {READABLE} image") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"too large: expected at most {MAX_PIXELS:,} pixels") from error
    except DAMAGE as error:
        found = "no such file" if isinstance(error, FileNotFoundError) else str(error).replace(str(path), "it")
        raise ValueError(f"cannot be decoded ({' '.join(found.split()) or 'it is damaged'})") from error


def may_be_image(head: bytes) -> bool:
    """Whether a file that starts with these bytes (at least 64, if it has them) may be of a supported format."""
    if head[4:8] == b"ftyp":  # videos too are files of this kind
        return any(head[at : at + 4] in IMAGE_BRANDS for at in range(8, len(head), 4))
    return head.startswith(MAGICS)


def is_image(path: Path) -> bool:
    """Whether a file is an image of a supported format, by its content; it may still be damaged."""
    try:
        with open_header(path):
            return True
    except (*DAMAGE, Image.DecompressionBombError) as error:
        return isinstance(error, Image.DecompressionBombError)


def upright_size(path: Path) -> Size | None:
    """The size of an image with its EXIF orientation applied, from its header; None if it cannot be used."""
    try:
        with open_header(path) as image:
            size, transpose = Size(*image.size), upright_transpose(image)
        refuse_size(size, most_pixels=MAX_PIXELS)
    except (*DAMAGE, Image.DecompressionBombError):
        return None
    return Size(size.height, size.width) if transpose in SWAPS_SIDES else size


def is_large(path: Path) -> bool:
    """Whether several such images at once could exhaust the memory, from the header; False if it cannot be read."""
    return (size := upright_size(path)) is not None and size.pixels > LARGE_PIXELS


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Suppress Pillow's warnings about large images and unusual tags; errors are still raised.

    Warning filters belong to the process: enter it in one thread while other threads decode.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


class _UnsupportedImageError(ValueError):
    """A valid image that is not supported."""


@contextmanager
def open_header(path: Path) -> Iterator[ImageFile.ImageFile]:
    """Open an image file of a supported format, without decoding it. Raises one of DAMAGE."""
    with path.open("rb") as file, _opened(file) as image:
        yield image


def _opened(file: BinaryIO) -> ImageFile.ImageFile:
    """Open HEIC and JPEG with their own classes: one is not registered with Pillow, and a JPEG with further images
    behind it is to Pillow a file of another format, which fails if their index is stale, as editors leave it."""
    start = file.read(64)
    file.seek(0)
    if _is_heic(start):
        return _heic(file)
    if not start.startswith(JPEG_MAGIC):
        return Image.open(file, formats=FORMATS)
    try:
        return JpegImageFile(file)
    except SyntaxError as error:
        raise UnidentifiedImageError(str(error)) from error


def _is_heic(start: bytes) -> bool:
    """Whether a file is HEIC, by its brands; AVIF files may also have the brand `mif1`."""
    brands = start[8 : int.from_bytes(start[:4])]
    return start[4:8] == b"ftyp" and brands[:4] in HEIC_BRANDS and b"avif" not in brands


def _heic(file: BinaryIO) -> HeifImageFile:
    """Open a HEIC file; raises ValueError if an item name is not UTF-8, which would crash pi-heif and the process."""
    for box in _searched_boxes(file.read()):
        for item in re.finditer(b"infe", box):
            start, version = item.start() - 4, box[item.end() : item.end() + 1]
            size = int.from_bytes(box[max(start, 0) : item.start()])
            names = box[start + (18 if version == b"\3" else 16) : start + min(size, MAX_ITEM_BYTES)]
            if not 1 < size < MAX_ITEM_BYTES or not _is_text(names):
                raise ValueError("its metadata is damaged")
    return HeifImageFile(file)


def _searched_boxes(content: bytes) -> Iterator[bytes]:
    """Yield the top-level boxes of a HEIC file that may hold names, with their headers.

    Phones append data of their own behind the metadata, as boxes or not.
    """
    has_metadata = False
    try:
        for kind, inner in boxes(content):
            has_metadata |= kind == b"meta"
            if kind not in OPAQUE_BOXES and kind.isascii() and kind.decode().isprintable():
                yield (len(inner) + 8).to_bytes(4) + kind + inner
    except ValueError:
        if not has_metadata:
            raise


def _refuse_scans(path: Path, size: Size) -> None:
    """Refuse a JPEG with too many scans: each is decoded over the whole image, and takes only a few bytes."""
    scans = count_scans(path)
    most = min(MAX_SCANS, MAX_PIXELS_OF_SCANS // size.pixels)
    if scans > most:
        raise ValueError(f"it has {scans:,} scans: expected at most {most}")


def _is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _decode(
    image: ImageFile.ImageFile, original: Size, signal: Signal | None, *, needed: float, finds_cutouts: bool
) -> DecodedImage:
    is_animated = image.format in ANIMATIONS and getattr(image, "is_animated", False)  # counting the frames is slow
    least = needed * HEADROOM_OF_DRAFTS  # draft mode has an effect on JPEG only
    drafted = image.draft(None, (math.ceil(original.width * least), math.ceil(original.height * least)))
    image.load()
    width, height = drafted[1][2:] if drafted else image.size
    factor = max(int(width / (original.width * needed * HEADROOM_OF_MEANS)), 1)
    box = 0.0, 0.0, width / factor, height / factor
    decoded_pixels = image.width * image.height
    rgb = rgb_on_white(image, shrink_by=factor, signal=signal)
    decoded = DecodedImage(rgb, box, original, decoded_pixels, is_animated, finds_cutouts and _is_cutout(image))
    transpose = upright_transpose(image)  # after load, which rotates a TIFF itself
    return decoded if transpose is None else _transposed(decoded, transpose)


def _is_cutout(image: Image.Image) -> bool:
    """Whether some of an image is visible and some is not; raises ValueError if all of it is transparent."""
    levels = opacity(image)
    if levels is not None and levels.getbbox() is None:
        raise _UnsupportedImageError("all of it is transparent: expected something to see")
    return is_cutout(levels)


def _transposed(decoded: DecodedImage, transpose: Image.Transpose) -> DecodedImage:
    image, original = decoded.image.transpose(transpose), decoded.original
    width, height = decoded.box[2:]
    if transpose in SWAPS_SIDES:
        width, height, original = height, width, Size(original.height, original.width)
    left, right = (image.width - width, image.width) if transpose in RIGHT_TO_LEFT else (0.0, width)
    top, bottom = (image.height - height, image.height) if transpose in BOTTOM_UP else (0.0, height)
    return replace(decoded, image=image, box=(left, top, right, bottom), original=original)


def upright_transpose(image: Image.Image) -> Image.Transpose | None:
    """The transpose that makes an image upright, or None. Unreadable EXIF counts as upright.

    `ImageOps.exif_transpose` is not used because it fails on invalid values of other tags.
    """
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except DAMAGE:
        return None
    return EXIF_TRANSPOSES.get(orientation) if isinstance(orientation, int) else None


def refuse_size(size: Size, *, most_pixels: int) -> None:
    """Raise ValueError if an image of this size is not supported. Callers use it before they decode any pixel."""
    found = f"{size.width}x{size.height}"
    if size.pixels > most_pixels:
        raise _UnsupportedImageError(f"{found} is too large: expected at most {most_pixels:,} pixels")
    if min(size.width, size.height) < SHORTEST_SIDE:
        raise _UnsupportedImageError(f"{found} is too small: expected at least {SHORTEST_SIDE} pixels a side")
    if max(size.width, size.height) > LONGEST_RATIO * min(size.width, size.height):
        raise _UnsupportedImageError(f"{found} is too long: expected at most {LONGEST_RATIO} to 1")
