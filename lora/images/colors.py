"""Converts images of any mode to 8-bit RGB, with transparency on white, and finds their opacity. Knows no files."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lora.images.profiles import Convert, to_srgb
from lora.images.signals import Signal
from lora.images.tone_mapping import tone_mapped

BAND_PIXELS = 4_000_000  # converted at a time, so that a large image is never in memory twice
WHITES = (1.0, 255.0, 65535.0, 2.0**31 - 1)  # usual values of white in formats that do not define it
OVERSHOOT = 1.5  # values up to this multiple of white are highlights or sharpening artifacts
WHITE = 255
BRIGHT = 128  # of 255: from this level on a pixel of a mask is white
OPAQUE = 250  # of 255: from this level on a pixel counts as opaque, as lossy formats round; our choice


def rgb_on_white(image: Image.Image, *, shrink_by: int, signal: Signal | None = None) -> Image.Image:
    """Convert the image to sRGB, in bands of rows, and reduce it by a whole factor (means of squares). An image with an
    HDR signal is tone-mapped instead of being converted by its ICC profile."""
    rgb = _rgb(image, shrink_by)
    if signal is not None:
        return tone_mapped(rgb, signal)
    convert_to_srgb = None if image.mode == "CMYK" else to_srgb("RGB", image.info.get("icc_profile"))
    return convert_to_srgb(rgb) if convert_to_srgb else rgb


def opacity(image: Image.Image) -> Image.Image | None:
    """The opacity of an image in 8-bit gray, or None if all its pixels are opaque."""
    if not image.has_transparency_data:
        return None
    canvas, least = Image.new("L", image.size), WHITE
    for top, strip in bands(image):
        band = _opacity(strip)
        least = min(least, int(np.asarray(band).min()))
        canvas.paste(band, (0, top))
    return canvas if least < OPAQUE else None


def is_cutout(levels: Image.Image | None) -> bool:
    """Whether `opacity` found that some of an image is visible and some is not."""
    return levels is not None and levels.point(lambda level: level >= BRIGHT and WHITE).getbbox() is not None


def _opacity(band: Image.Image) -> Image.Image:
    if _has_levels(band):
        is_visible = np.asarray(band) != band.info["transparency"]
        return Image.fromarray(np.where(is_visible, WHITE, 0).astype(np.uint8))
    return band.convert("RGBA").getchannel("A")


def _rgb(image: Image.Image, shrink_by: int) -> Image.Image:
    convert = _converter(image)
    if convert is _unchanged and shrink_by == 1:
        return image
    canvas = Image.new("RGB", (-(-image.width // shrink_by), -(-image.height // shrink_by)))
    for top, strip in bands(image, shrink_by):
        band = convert(strip)
        canvas.paste(band.reduce(shrink_by) if shrink_by > 1 else band, (0, top // shrink_by))
    return canvas


def bands(image: Image.Image, multiple_of: int = 1) -> Iterator[tuple[int, Image.Image]]:
    """Yield horizontal bands of an image, each with its first row; their heights are multiples of `multiple_of`."""
    rows = max(BAND_PIXELS // image.width // multiple_of, 1) * multiple_of
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _converter(image: Image.Image) -> Convert:
    """The conversion for the bands of an image, by its mode."""
    if _has_levels(image):
        white = 65535.0 if image.mode.startswith("I;16") else _white_level(image)
        return lambda band: _scale_levels(band, white=white)
    if image.has_transparency_data:
        return _composite_on_white
    if image.mode == "CMYK" and (from_cmyk := to_srgb("CMYK", image.info.get("icc_profile"))):
        return from_cmyk
    return _unchanged if image.mode == "RGB" else lambda band: band.convert("RGB")


def _has_levels(image: Image.Image) -> bool:
    """Whether an image is gray with more than 8 bits."""
    return image.mode.startswith("I;16") or image.mode in ("I", "F")


def _unchanged(band: Image.Image) -> Image.Image:
    return band


def _composite_on_white(band: Image.Image) -> Image.Image:
    layer = band.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _scale_levels(band: Image.Image, *, white: float) -> Image.Image:
    """Scale gray levels from 0 to `white` into 8 bits (`convert` would clip them at 255). NaN becomes black."""
    levels = np.asarray(band, dtype=np.float32)
    if band.info.get("transparency") is not None:
        levels = np.where(levels == band.info["transparency"], white, levels)
    scaled = np.nan_to_num(levels).clip(0.0, white) * (255.0 / white)
    return Image.fromarray(np.rint(scaled).astype(np.uint8)).convert("RGB")


def _white_level(image: Image.Image) -> float:
    """The white level of an image of unknown range: the first usual one that covers all its values."""
    brightest = max(_brightest(np.asarray(band)) for _, band in bands(image))
    return next((white for white in WHITES if brightest <= white * OVERSHOOT), brightest)


def _brightest(levels: NDArray[np.generic]) -> float:
    return float(np.max(levels, where=np.isfinite(levels), initial=0.0))
