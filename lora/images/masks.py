"""Decodes masks from any supported image file: white selects. Knows nothing about the image that a mask belongs to."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lora.images.colors import BRIGHT, OPAQUE, WHITE, bands, is_cutout, opacity, rgb_on_white
from lora.images.files import DAMAGE, MAX_PIXELS, decoding_errors, open_header, refuse_size, upright_transpose
from lora.images.orientation import SWAPS_SIDES
from lora.images.size import Box, Size, center_crop_box, have_same_shape

KEPT = BRIGHT  # of 255: from this level of a mask on, `on_white` keeps an image as it is; our choice
PALE = 0.7  # how much of what a mask does not select is white when it is shown; our choice
# What tells a mask from edges, poses and depths, our choice: the share of pixels that are neither black nor white, and
# that of black and of white ones that are not at a border.
DARKEST_GRAY, BRIGHTEST_GRAY, MOST_GRAYS, LEAST_INNER = 40, 215, 0.1, 0.5
# What tells a photograph from a mask or a map, all our choice: of the pixels of a reduced image, the share that is
# colored, and the share that the most frequent of 4,096 colors cover, which are most of a map of flat colors.
REDUCED_SIDE, COLORED, LEAST_COLORED, FLAT_COLORS, MOST_FLAT = 64, 24, 0.05, 16, 0.9


def open_mask(path: Path, *, most_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode a mask into 8-bit gray, upright, in its own size.

    16-bit gray is scaled. Transparent pixels are not selected. All others are if none of them is bright, or if they
    are more than black and white, as those of a cut-out photograph are. Raises ValueError with the reason, without the
    file name, as `open_image` does.
    """
    with decoding_errors(path), open_header(path) as image:
        refuse_size(Size(*image.size), most_pixels=most_pixels)
        image.load()
        mask, transpose = _gray(image), upright_transpose(image)
    return mask if transpose is None else mask.transpose(transpose)


def open_opacity(path: Path) -> Image.Image:
    """The opacity of an image in 8-bit gray, upright, in its own size. Raises ValueError as `open_image` does."""
    with decoding_errors(path), open_header(path) as image:
        image.load()
        levels, transpose = opacity(image) or Image.new("L", image.size, "white"), upright_transpose(image)
    return levels if transpose is None else levels.transpose(transpose)


def turned_with(image: Path, mask: Image.Image, upright: Size) -> Image.Image:
    """A mask, turned as EXIF turns its image if it was made without: if it has the shape of the image as it is stored.

    `upright` is the size of the image. Raises ValueError with the reason if the mask has another shape in either case.
    """
    if have_same_shape(Size(*mask.size), upright):
        return mask
    with open_header(image) as header:
        transpose = upright_transpose(header)
    if transpose in SWAPS_SIDES and have_same_shape(Size(*mask.size), Size(upright.height, upright.width)):
        return mask.transpose(transpose)
    raise ValueError(f"{mask.width}x{mask.height} is not the shape of its image, which has {upright}")


def is_silhouette(path: Path) -> bool:
    """Whether an image file shows nothing but areas of black and white, as masks do and edges, poses and depths do not.

    A file that cannot be decoded is none.
    """
    reduced = _reduced(path)
    if reduced is None:
        return False
    levels = reduced.mean(axis=2)
    white = levels >= BRIGHT
    grays = np.mean((levels > DARKEST_GRAY) & (levels < BRIGHTEST_GRAY))
    return bool(grays < MOST_GRAYS and all(_is_area(each) for each in (white, ~white)))


def _is_area(selected: NDArray[np.bool_]) -> bool:
    """Whether most of the selected pixels have none but selected ones beside them, as those of lines do not."""
    inner = selected[1:-1, 1:-1]
    beside = selected[:-2, 1:-1] & selected[2:, 1:-1] & selected[1:-1, :-2] & selected[1:-1, 2:]
    return bool((inner & beside).sum() >= LEAST_INNER * max(inner.sum(), 1))


def _reduced(path: Path) -> NDArray[np.int64] | None:
    """An image file as a small square, [H, W, 3], without averaging, which would mix colors at borders; None if it
    cannot be decoded."""
    try:
        with open_header(path) as image:
            image.draft("RGB", (REDUCED_SIDE * 2, REDUCED_SIDE * 2))
            reduced = image.convert("RGB").resize((REDUCED_SIDE, REDUCED_SIDE), Image.Resampling.NEAREST)
    except (*DAMAGE, Image.DecompressionBombError):
        return None
    return np.asarray(reduced).astype(np.int64)


def is_color_photograph(path: Path) -> bool:
    """Whether an image file shows many colors, as photographs do and masks, depth maps and segmentations do not.

    A file that cannot be decoded is none.
    """
    reduced = _reduced(path)
    if reduced is None:
        return False
    pixels = reduced.reshape(-1, 3)
    colored = np.mean(np.ptp(pixels, axis=1) > COLORED)
    _, counts = np.unique(pixels // 16 @ (256, 16, 1), return_counts=True)
    flat = np.sort(counts)[-FLAT_COLORS:].sum() / len(pixels)
    return bool(colored >= LEAST_COLORED and flat < MOST_FLAT)


def is_cutout_file(path: Path) -> bool:
    """Whether some of an image file is visible and some is transparent. A file that cannot be decoded is none."""
    try:
        with decoding_errors(path), open_header(path) as image:
            image.load()
            return is_cutout(opacity(image))
    except ValueError:
        return False


def binarize(mask: Image.Image) -> Image.Image:
    """Convert a mask to black (0) and white (255)."""
    return mask.point(lambda value: 255 if value >= BRIGHT else 0)


def fit_mask(mask: Image.Image, image: Size, size: Size) -> Image.Image:
    """Resize and crop a mask of any size as `fit` does with an image of the size `image`.

    The result is black and white; a pixel is white if any of its source pixels is, so that small spots are preserved.
    """
    means = crop_mask(binarize(mask), image, (0.0, 0.0, image.width, image.height), size)
    return means.point(lambda mean: 255 if mean else 0)


def crop_mask(mask: Image.Image, image: Size, box: Box, size: Size) -> Image.Image:
    """Resize a box of a mask to `size` by area, center-cropped to its shape, as `fit` does with a box of the image. A
    smaller mask is enlarged without steps.

    `box` is in pixels of the image, of the size `image`, whatever size the mask has.
    """
    left, top, right, bottom = center_crop_box(box, size)
    x, y = mask.width / image.width, mask.height / image.height
    crop_box = left * x, top * y, right * x, bottom * y
    is_enlarged = size.width > crop_box[2] - crop_box[0] and size.height > crop_box[3] - crop_box[1]
    resampling = Image.Resampling.BILINEAR if is_enlarged else Image.Resampling.BOX
    return mask.resize((size.width, size.height), resampling, crop_box)


def on_white(image: Image.Image, mask: Image.Image) -> Image.Image:
    """An RGB image on white where a mask of its size does not select it.

    What is selected by half or more is kept whole, as gray often means that something counts less, not that it is
    half transparent; below that the image fades into white.
    """
    visible = mask.point(lambda level: min(level * WHITE // KEPT, WHITE))
    return Image.composite(image, Image.new("RGB", image.size, "white"), visible)


def dimmed(image: Image.Image, mask: Image.Image) -> Image.Image:
    """An RGB image, pale and without color where a mask does not select it, to show what a mask does."""
    pale = Image.blend(image.convert("L").convert("RGB"), Image.new("RGB", image.size, "white"), PALE)
    return Image.composite(image, pale, mask.resize(image.size))


def _gray(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return rgb_on_white(image, shrink_by=1).convert("L")
    paint, alpha = Image.new("L", image.size), Image.new("L", image.size)
    for top, band in bands(image):
        layer = band.convert("RGBA")
        paint.paste(Image.alpha_composite(Image.new("RGBA", layer.size, "black"), layer).convert("L"), (0, top))
        alpha.paste(layer.getchannel("A"), (0, top))
    return paint if binarize(paint).getbbox() and not _has_grays(paint, alpha) else alpha


def _has_grays(paint: Image.Image, alpha: Image.Image) -> bool:
    """Whether many of the opaque pixels are neither black nor white."""
    levels = np.asarray(paint)[np.asarray(alpha) >= OPAQUE]
    return bool(levels.size and np.mean((levels > DARKEST_GRAY) & (levels < BRIGHTEST_GRAY)) > MOST_GRAYS)
