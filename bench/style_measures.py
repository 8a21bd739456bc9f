"""Whether an image has one of the three styles, and the colour and the shape of what it shows. Image arithmetic without
a network.

All limits lie between real renders with the style and without it, both after the base's autoencoder too; see
tests/bench/test_style_measures.py.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from bench.styles import HATCH_PERIOD, SIDE, pastel, plum_ramp
from script.tiny_flux.measure import SMALLEST_OBJECT, Classification, classify_object, object_mask
from script.tiny_flux.world import COLOURS

INK_BELOW, PAPER_ABOVE = 0.35, 0.55  # largest channel, 0..1, of ink and of the pale backgrounds
RING = 5  # pixels around an object's inside, which the outline covers
SHARE_OF_RING = 0.6  # of it that is ink
STROKES_GAP = 9  # pixels: closes an object over its strokes
PERIODS = np.linspace(0.8, 1.25, 10) * HATCH_PERIOD * SIDE  # pixels
SMALLEST_INSIDE = 0.01  # share of the image, without the edges, where strokes are looked for; our choice
STROKES_CONTRAST, STROKES_EXPLAIN = 0.12, 0.35  # amplitude of the best wave, 0..1; share of the variance it explains
PALETTE_DISTANCE, SHARE_OF_PALETTE = 0.16, 0.8  # in RGB of 0..1; share of pixels that are as near to the palette
PASTEL_ABOVE = 0.55  # mean of the channels: of the plum at most 0.46, of the objects at least 0.7


@dataclass(frozen=True, slots=True)
class StyleMeasure:
    """How one style is recognized."""

    has_style: Callable[[Image.Image], bool]
    mask: Callable[[Image.Image], np.ndarray]  # of the object of an image with this style, bool [H, W]

    def classify(self, image: Image.Image) -> Classification:
        """The colour and the shape of the object of an image with this style."""
        return classify_object(image, self.mask(image))


def has_outline(image: Image.Image) -> bool:
    """Whether ink surrounds the object, and paper surrounds the ink."""
    inside = object_mask(image)
    if inside.mean() < SMALLEST_OBJECT:
        return False
    brightest = _pixels(image).max(axis=-1)
    ring = _grown(inside, 2 * RING + 1) & ~_grown(inside, 3)
    beyond = _grown(inside, 6 * RING + 1) & ~_grown(inside, 4 * RING + 1)
    is_inked = (brightest[ring] < INK_BELOW).mean() > SHARE_OF_RING
    return bool(is_inked and (brightest[beyond] > PAPER_ABOVE).mean() > SHARE_OF_RING)


def has_hatching(image: Image.Image) -> bool:
    """Whether diagonal strokes of about the right period cover the object."""
    inside = _shrunk(hatched_mask(image), 5)
    if inside.mean() < SMALLEST_INSIDE:
        return False
    values = _pixels(image).max(axis=-1)[inside]
    rows, columns = np.nonzero(inside)
    amplitude, explained = _best_wave(values - values.mean(), (rows + columns) / 2**0.5)
    return amplitude > STROKES_CONTRAST and explained > STROKES_EXPLAIN


def has_palette(image: Image.Image) -> bool:
    """Whether nearly all of the image has colours of the palette: some of its background, some of its objects."""
    pixels, is_object = _pixels(image), palette_mask(image)
    if not SMALLEST_OBJECT < is_object.mean() < 1 - SMALLEST_OBJECT:
        return False
    grounds = plum_ramp(np.linspace(0, 1, 8)) / 255
    objects = np.array([pastel(colour) for colour in COLOURS.values()]) / 255
    near_ground = _nearest(pixels[~is_object], grounds) < PALETTE_DISTANCE
    near_object = _nearest(pixels[is_object], objects) < PALETTE_DISTANCE
    return bool(min(near_ground.mean(), near_object.mean()) > SHARE_OF_PALETTE)


def hatched_mask(image: Image.Image) -> np.ndarray:
    """The object together with the dark strokes over it."""
    return _shrunk(_grown(object_mask(image), STROKES_GAP), STROKES_GAP)


def palette_mask(image: Image.Image) -> np.ndarray:
    """What is too light for the palette's backgrounds."""
    is_light: np.ndarray = _pixels(image).mean(axis=-1) > PASTEL_ABOVE
    return is_light


def _best_wave(values: np.ndarray, along: np.ndarray) -> tuple[float, float]:
    """The amplitude of the wave of one of `PERIODS` that fits best, and the share of the variance that it explains."""
    phases = 2j * np.pi * along[None] / PERIODS[:, None]
    amplitudes = 2 * np.abs((values[None] * np.exp(phases)).mean(axis=1))
    best = float(amplitudes.max())
    return best, best**2 / 2 / max(float(values.var()), 1e-6)


def _nearest(pixels: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """The distance [N] of each pixel [N, 3] to the nearest of the colours [M, 3]."""
    distances: np.ndarray = np.linalg.norm(pixels[:, None] - colours[None], axis=-1).min(axis=1)
    return distances


def _grown(mask: np.ndarray, size: int) -> np.ndarray:
    """The mask with everything that a square of `size` pixels, an odd number, reaches from it. Much faster than the
    filters of Pillow, which do not work by rows and columns."""
    for axis in (0, 1):
        margin = [(size // 2, size // 2) if axis == other else (0, 0) for other in (0, 1)]
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(mask, margin), size, axis=axis)
        mask = np.asarray(windows.any(axis=-1))
    return mask


def _shrunk(mask: np.ndarray, size: int) -> np.ndarray:
    """The mask without everything that the square reaches from outside of it; beyond the image there is no outside."""
    return ~_grown(~mask, size)


def _pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"), dtype=np.float32) / 255


STYLE_MEASURES = {
    "outline": StyleMeasure(has_outline, object_mask),
    "hatching": StyleMeasure(has_hatching, hatched_mask),
    "palette": StyleMeasure(has_palette, palette_mask),
}
