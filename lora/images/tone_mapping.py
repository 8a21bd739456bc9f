"""Converts HDR images to sRGB, so that they look as on an ordinary display instead of gray.

Light up to the white of an ordinary image (203 cd/m2, ITU-R BT.2408) keeps its brightness as far as possible; brighter
light is compressed into what remains, up to the brightest of the image (the EETF of ITU-R BT.2390, section 5.4.1).
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from lora.images.signals import BT2020, Signal, Transfer

Floats = NDArray[np.float32] | NDArray[np.float64]

WHITE = 203.0  # cd/m2 of reference white: ITU-R BT.2408
BRIGHTEST = 1000.0  # cd/m2: the peak of HLG, and of most HDR displays; brighter light is white
IGNORED = 0.001  # of the pixels, the brightest, that do not decide on the compression of all others; our choice
BAND_PIXELS = 1_000_000  # converted at a time
LINEAR_LEVELS = 65535  # of the table that encodes linear light: a step is a twentieth of one of the 255 or less
# PQ: SMPTE ST 2084, in ITU-R BT.2100 table 4
M1, M2, C1, C2, C3, PQ_PEAK = 2610 / 16384, 2523 / 4096 * 128, 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32, 10_000.0
# HLG: ITU-R BT.2100 table 5
A, B, C, HLG_GAMMA = 0.17883277, 0.28466892, 0.55991073, 1.2
# From linear light of other primaries to those of sRGB: ITU-R BT.2087 for BT.2020; for P3-D65 by the same computation.
FROM_BT2020 = ((1.6605, -0.5876, -0.0728), (-0.1246, 1.1329, -0.0083), (-0.0182, -0.1006, 1.1187))
FROM_P3 = ((1.2249, -0.2247, 0.0), (-0.0420, 1.0419, 0.0), (-0.0197, -0.0786, 1.0979))
LUMINANCE = (0.2627, 0.6780, 0.0593)  # of BT.2020
TO_SRGB = {1: np.identity(3), BT2020: np.array(FROM_BT2020), 11: np.array(FROM_P3), 12: np.array(FROM_P3)}


def tone_mapped(image: Image.Image, signal: Signal) -> Image.Image:
    """An RGB image with an HDR signal, converted to sRGB."""
    peak, encode = _peak(image, signal), _srgb_table()
    rows = max(BAND_PIXELS // image.width, 1)
    converted = Image.new("RGB", image.size)
    for top in range(0, image.height, rows):
        band = np.asarray(image.crop((0, top, image.width, min(top + rows, image.height))))
        linear = _to_linear_srgb(_light(band, signal.transfer), signal.primaries, peak=peak)
        converted.paste(Image.fromarray(encode[np.rint(linear * LINEAR_LEVELS).astype(np.uint16)]), (0, top))
    return converted


def _peak(image: Image.Image, signal: Signal) -> float:
    """The brightest light in an image, in cd/m2, but for a few pixels."""
    red, green, blue = image.split()
    counts = np.array(ImageChops.lighter(ImageChops.lighter(red, green), blue).histogram())
    brighter = counts[::-1].cumsum()[::-1]  # pixels of this level or more
    level = int(np.flatnonzero(brighter > IGNORED * counts.sum())[-1])
    light = _light(np.full((1, 1, 3), level, np.uint8), signal.transfer)
    return float(np.clip(light.max(), WHITE, BRIGHTEST))


def _srgb_table() -> NDArray[np.uint8]:
    linear = np.linspace(0.0, 1.0, LINEAR_LEVELS + 1)
    encoded = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)  # noqa: PLR2004 - sRGB
    return np.rint(encoded * 255).astype(np.uint8)


def _to_linear_srgb(light: Floats, primaries: int, *, peak: float) -> Floats:
    """Convert light [H, W, 3] in cd/m2, of which `peak` is the brightest, to linear sRGB from 0 to 1."""
    brightest = light.max(axis=2, keepdims=True)
    # by a table with steps that grow with the light, as the powers of every pixel would take seconds
    steps = np.linspace(0.0, 1.0, LINEAR_LEVELS + 1) ** 4 * PQ_PEAK
    scales = _compressed(steps, peak) / np.maximum(steps, 1e-9) / WHITE
    scale = scales[np.rint(np.sqrt(np.sqrt(brightest / PQ_PEAK)) * LINEAR_LEVELS).astype(int)]
    linear = (light * scale) @ TO_SRGB.get(primaries, TO_SRGB[BT2020]).T
    return np.clip(linear, 0.0, 1.0)


def _light(band: NDArray[np.uint8], transfer: Transfer) -> Floats:
    """The light [H, W, 3] in cd/m2 that a display shows for the pixels of a band."""
    levels = np.linspace(0.0, 1.0, 256)
    if transfer is Transfer.PQ:
        return _light_of_pq(levels)[band]
    scene = np.where(levels <= 0.5, levels**2 / 3, (np.exp((levels - C) / A) + B) / 12)[band]  # noqa: PLR2004 - BT.2100
    luminance = scene @ np.array(LUMINANCE)
    return BRIGHTEST * scene * np.maximum(luminance, 1e-12)[..., None] ** (HLG_GAMMA - 1)


def _light_of_pq(signal: Floats) -> Floats:
    powered = signal ** (1 / M2)
    return PQ_PEAK * (np.maximum(powered - C1, 0.0) / (C2 - C3 * powered)) ** (1 / M1)


def _compressed(light: Floats, peak: float) -> Floats:
    """The light on a display with the peak `WHITE` for light up to `peak`."""
    top = _pq(np.array(peak))
    most = _pq(np.array(WHITE)) / top
    knee = 1.5 * most - 0.5
    signal = np.minimum(_pq(light) / top, 1.0)
    if knee >= 1:
        return light
    t = (signal - knee) / (1 - knee)
    curve = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * most
    return _light_of_pq(np.where(signal < knee, signal, curve) * top)


def _pq(light: Floats) -> Floats:
    """The PQ signal of light in cd/m2."""
    powered = (light / PQ_PEAK) ** M1
    return ((C1 + C2 * powered) / (1 + C3 * powered)) ** M2
