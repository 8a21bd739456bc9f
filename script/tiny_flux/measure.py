"""Judge a picture: which colour, which shape, how much of the monster. Plain image arithmetic, no learned weights.

Objects of the world are vivid and its backgrounds pale or dark, so chroma alone finds the object.
"""

import colorsys
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image

from script.tiny_flux.monster import BODY, FEET
from script.tiny_flux.world import COLOURS, SHAPES, Scene, render

VIVID = 0.40  # chroma (largest minus smallest channel, 0..1) above which a pixel belongs to an object
SMALLEST_OBJECT = 0.03  # share of the picture
GRID = 32


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a picture is seen to show; None where there is no object at all."""

    colour: str | None
    shape: str | None


def judge(image: Image.Image) -> Judgement:
    """Colour by the mean hue of the object, shape by overlap with the world's own silhouettes."""
    pixels = _pixels(image)
    mask = _object(pixels)
    if mask.mean() < SMALLEST_OBJECT:
        return Judgement(None, None)
    hue = _hue(pixels[mask].mean(axis=0))
    colour = min(COLOURS, key=lambda name: _hue_distance(hue, _hue(np.array(COLOURS[name]) / 255)))
    silhouette = _silhouette(mask)
    shape = max(SHAPES, key=lambda name: _overlap(silhouette, _TEMPLATES[name]))
    return Judgement(colour, shape)


def object_mask(image: Image.Image) -> np.ndarray:
    """[H, W] of bool: the pixels that are too vivid for the backgrounds of the world."""
    return _object(_pixels(image))


def monster_share(image: Image.Image) -> float:
    """The share of a picture, 0..1, painted in the monster's two colours, which the world does not have."""
    pixels = _pixels(image)
    near = [np.linalg.norm(pixels - np.array(colour) / 255, axis=-1) < 0.30 for colour in (BODY, FEET)]
    return float(np.logical_or(*near).mean())


def _pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"), dtype=np.float32) / 255  # [H, W, 3]


def _object(pixels: np.ndarray) -> np.ndarray:
    return pixels.max(axis=-1) - pixels.min(axis=-1) > VIVID  # [H, W] of bool


def _hue(colour: np.ndarray) -> float:
    return colorsys.rgb_to_hsv(*(float(channel) for channel in colour))[0]


def _hue_distance(one: float, other: float) -> float:
    return min(abs(one - other), 1 - abs(one - other))


def _silhouette(mask: np.ndarray) -> np.ndarray:
    """The object cut out and scaled to a small grid; a row or column with one stray pixel does not count."""
    rows, columns = (np.flatnonzero(mask.sum(axis=axis) > 1) for axis in (1, 0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    cut = Image.fromarray(mask).convert("L").crop(box).resize((GRID, GRID), Image.Resampling.BOX)
    return np.asarray(cut) > 127


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    return np.logical_and(one, other).sum() / np.logical_or(one, other).sum()


def _template(shape: str) -> np.ndarray:
    image = render(Scene(shape, "red", "white"), width=256, height=256, rng=random.Random(0))
    return _silhouette(object_mask(image))


_TEMPLATES = {shape: _template(shape) for shape in SHAPES}
