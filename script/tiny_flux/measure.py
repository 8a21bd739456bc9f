"""Classifies an image by colour and shape, and measures the monster's share of it. Image arithmetic without a network.

Objects of the world are vivid and its backgrounds pale or dark, so chroma alone separates them.
"""

import colorsys
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image

from script.tiny_flux.monster import BODY, FEET
from script.tiny_flux.world import COLOURS, SHAPES, Scene, render

VIVID = 0.40  # chroma (largest minus smallest channel, 0..1) above which a pixel belongs to an object
SMALLEST_OBJECT = 0.03  # share of the image
GRID = 32


@dataclass(frozen=True, slots=True)
class Classification:
    """The colour and the shape of the object in an image; None if there is none."""

    colour: str | None
    shape: str | None


def classify(image: Image.Image) -> Classification:
    """Return the colour nearest to the object's mean hue, and the shape whose silhouette overlaps it most."""
    return classify_object(image, object_mask(image))


def classify_object(image: Image.Image, mask: np.ndarray) -> Classification:
    """Return the same for the object that `mask`, bool [H, W], shows."""
    pixels = _pixels(image)
    if mask.mean() < SMALLEST_OBJECT:
        return Classification(None, None)
    hue = _hue(pixels[mask].mean(axis=0))
    colour = min(COLOURS, key=lambda name: _hue_distance(hue, _hue(np.array(COLOURS[name]) / 255)))
    silhouette = _silhouette(mask)
    shape = max(SHAPES, key=lambda name: _overlap(silhouette, _TEMPLATES[name]))
    return Classification(colour, shape)


def object_mask(image: Image.Image) -> np.ndarray:
    """Return the pixels of the object, bool [H, W]: those that are too vivid for the world's backgrounds."""
    return _object(_pixels(image))


def silhouette_overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Return the intersection over union, 0..1, of the objects of two masks, each scaled to its bounding box; 0 if
    there is no object."""
    if min(one.mean(), other.mean()) < SMALLEST_OBJECT:
        return 0.0
    return float(_overlap(_silhouette(one), _silhouette(other)))


def monster_share(image: Image.Image) -> float:
    """Return the share of an image, 0..1, in the monster's two colours, which the world does not have."""
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
    """Crop the object and scale it to bool [GRID, GRID]. Rows and columns with a single pixel are ignored."""
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
