"""Pixels of any kind become 8-bit RGB, with white where they were transparent. Knows no file."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lora.images.profiles import Convert, to_srgb

BAND_PIXELS = 4_000_000  # how many pixels are converted at a time, so that a large image is never held twice
WHITES = (1.0, 255.0, 65535.0, 2.0**31 - 1)  # what the brightest pixel can be where no format says it
OVERSHOOT = 1.5  # numbers beyond white by as much are highlights, or what sharpening made


def rgb_on_white(image: Image.Image, *, shrink_by: int) -> Image.Image:
    """The image in sRGB, shrunk by a whole factor (each pixel the mean of a square), converted in bands of rows."""
    picture = _rgb(image, shrink_by)
    in_srgb = None if image.mode == "CMYK" else to_srgb("RGB", image.info.get("icc_profile"))
    return in_srgb(picture) if in_srgb else picture


def _rgb(image: Image.Image, shrink_by: int) -> Image.Image:
    convert = _converter(image)
    if convert is _as_it_is and shrink_by == 1:
        return image
    canvas = Image.new("RGB", (-(-image.width // shrink_by), -(-image.height // shrink_by)))
    for top, strip in bands(image, shrink_by):
        band = convert(strip)
        canvas.paste(band.reduce(shrink_by) if shrink_by > 1 else band, (0, top // shrink_by))
    return canvas


def bands(image: Image.Image, multiple_of: int = 1) -> Iterator[tuple[int, Image.Image]]:
    """An image in strips of so many rows at a time, each with where it begins."""
    rows = max(BAND_PIXELS // image.width // multiple_of, 1) * multiple_of
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _converter(image: Image.Image) -> Convert:
    """How the bands of an image are converted, by its mode."""
    if image.mode.startswith("I;16"):
        return lambda band: _from_numbers(band, white=65535.0)
    if image.mode in ("I", "F"):
        white = _white(image)
        return lambda band: _from_numbers(band, white=white)
    if image.has_transparency_data:
        return _on_white
    if image.mode == "CMYK" and (from_inks := to_srgb("CMYK", image.info.get("icc_profile"))):
        return from_inks
    return _as_it_is if image.mode == "RGB" else lambda band: band.convert("RGB")


def _as_it_is(band: Image.Image) -> Image.Image:
    return band


def _on_white(band: Image.Image) -> Image.Image:
    layer = band.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _from_numbers(band: Image.Image, *, white: float) -> Image.Image:
    """Gray from numbers, 0 to `white`; `convert` alone clips them at 255. What is no number is black."""
    numbers = np.asarray(band, dtype=np.float32)
    if band.info.get("transparency") is not None:
        numbers = np.where(numbers == band.info["transparency"], white, numbers)
    scaled = np.nan_to_num(numbers).clip(0.0, white) * (255.0 / white)
    return Image.fromarray(np.rint(scaled).astype(np.uint8)).convert("RGB")


def _white(image: Image.Image) -> float:
    """What stands for white in numbers of an unknown range: the first of the usual ones that holds them all."""
    brightest = max(_brightest(np.asarray(band)) for _, band in bands(image))
    return next((white for white in WHITES if brightest <= white * OVERSHOOT), brightest)


def _brightest(numbers: NDArray[np.generic]) -> float:
    return float(np.max(numbers, where=np.isfinite(numbers), initial=0.0))
