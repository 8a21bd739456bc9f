"""The strict measure of the world's shapes. Image arithmetic without a network.

`classify` in measure.py returns the most similar shape. Here the outline of that shape is placed where it matches the
object best, without stretching or rotation. The object must then fill the outline, have its tips and notches, follow
its sides and have crisp edges.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image

from script.tiny_flux.measure import SMALLEST_OBJECT, Classification, classify, object_mask
from script.tiny_flux.placement import Fit, best_placement, grid, inside, overlap, pixel_centres, pixels_under
from script.tiny_flux.shape_spots import corners, sides
from script.tiny_flux.world import SHAPES, UNIT_OUTLINES

# "Encoded" are real renders of 128 px after the autoencoder of the base. Each limit is where a person sees a wrong
# shape in the images of the base of 2026-11-28.
MIN_OVERLAP = {  # intersection over union of object and outline; irregular edges cost most for long outlines
    "circle": 0.94,  # encoded 0.97
    "square": 0.88,  # encoded 0.93
    "triangle": 0.86,  # encoded 0.96
    "star": 0.84,  # encoded 0.91
    "heart": 0.90,  # encoded 0.96
}
MAX_SOFTNESS = 0.12  # see `_softness`: encoded 0.08; circles and squares, blurred by 6 % of the image's side, 0.15

SPOT_RADIUS = 0.08  # of the disc that is inspected at each spot of shape_spots.py, in radii of the figure
SPACING, SPOT_SPACING = 0.035, 0.02  # between the points of an outline's inside and of a spot, in radii


@dataclass(frozen=True, slots=True)
class ShapeInspection:
    """Measurements of an object against the most similar shape."""

    shape: str
    fit: Fit
    overlap: float  # intersection over union, 0..1
    softness: float  # 0 for crisp edges
    wrong_spots: tuple[str, ...]

    def faults(self) -> list[str]:
        """Return the faults as text. An object without faults has the shape."""
        return list(self._faults())

    def _faults(self) -> Iterator[str]:
        if self.overlap < MIN_OVERLAP[self.shape]:
            yield f"overlap with a {self.shape}: {self.overlap:.2f}, expected at least {MIN_OVERLAP[self.shape]:.2f}"
        if self.softness > MAX_SOFTNESS:
            yield f"edges: softness {self.softness:.2f}, expected at most {MAX_SOFTNESS:.2f}"
        yield from self.wrong_spots


def classify_strictly(image: Image.Image) -> Classification:
    """Return the colour from `classify`, and the shape if the object has no faults, else None."""
    inspection = inspect_shape(image)
    shape = None if inspection is None or inspection.faults() else inspection.shape
    return Classification(classify(image).colour, shape)


def inspect_shape(image: Image.Image) -> ShapeInspection | None:
    """Compare the object with the outline of the most similar shape. Returns None if there is no object."""
    mask = object_mask(image)
    if mask.mean() < SMALLEST_OBJECT:
        return None
    estimates = {shape: _estimate(mask, shape) for shape in SHAPES}
    shape = max(SHAPES, key=lambda name: float(_overlaps(mask, name, estimates[name][None])[0]))
    fit = best_placement(estimates[shape], lambda candidates: _overlaps(mask, shape, candidates))
    filled = inside(UNIT_OUTLINES[shape], *pixel_centres(fit, height=image.height, width=image.width))
    softness = _softness(image, mask, shape, fit)
    return ShapeInspection(shape, fit, overlap(mask, filled), softness, tuple(_wrong_spots(mask, shape, fit)))


def _estimate(mask: np.ndarray, shape: str) -> np.ndarray:
    """Return [x, y, radius] at which the outline has the object's centre of mass and area."""
    rows, columns = np.nonzero(mask)
    points = _POINTS[shape]
    radius = math.sqrt(len(rows) / (len(points) * SPACING**2))
    return np.array([*(np.array([columns.mean(), rows.mean()]) + 0.5 - radius * points.mean(axis=0)), radius])


def _overlaps(mask: np.ndarray, shape: str, candidates: np.ndarray) -> np.ndarray:
    """Return the intersection over union of object and outline for each of `candidates` [candidates, 3]."""
    areas = np.square(SPACING * candidates[:, 2])  # of the image that one point stands for
    common = _covered(mask, candidates, _POINTS[shape]).sum(axis=-1) * areas
    overlaps: np.ndarray = common / (mask.sum() + len(_POINTS[shape]) * areas - common)
    return overlaps


def _covered(mask: np.ndarray, candidates: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return bool [candidates, points]: which points of the figure lie on the object."""
    return _at(np.pad(mask, 1), candidates, points)


def _at(padded: np.ndarray, candidates: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return [candidates, points, ...]: the pixels under points of the figure; the image has a margin of one pixel."""
    height, width, *channels = padded.shape
    found: np.ndarray = padded.reshape(-1, *channels)[pixels_under(candidates, points, height=height, width=width)]
    return found


def _wrong_spots(mask: np.ndarray, shape: str, fit: Fit) -> Iterator[str]:
    candidate = np.array([[fit.x, fit.y, fit.radius]])
    edges = [spot for side in _SIDES[shape] for spot in (side.inner, side.outer)]
    for spot in (*_CORNERS[shape], *edges):
        covered = _covered(mask, candidate, _DISC + spot.centre).mean() > 0.5
        if covered != spot.covered:
            yield f"{spot.name} is {'filled' if covered else 'missing'}"


def _softness(image: Image.Image, mask: np.ndarray, shape: str, fit: Fit) -> float:
    """Return the median over the sides of |inside - object| / |inside - outside|, in colours of the object and of the
    spots inside and outside the outline."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    padded = np.pad(pixels, ((1, 1), (1, 1), (0, 0)), mode="edge")
    candidate = np.array([[fit.x, fit.y, fit.radius]])
    edges = [spot for side in _SIDES[shape] for spot in (side.inner, side.outer)]
    colours = np.array([_at(padded, candidate, _DISC + spot.centre).mean(axis=(0, 1)) for spot in edges])
    inner, outer = colours[::2], colours[1::2]
    lost = np.linalg.norm(inner - np.median(pixels[mask], axis=0), axis=-1)
    return float(np.median(lost / np.linalg.norm(inner - outer, axis=-1).clip(min=1)))


def _points_within(keep: Callable[[np.ndarray, np.ndarray], np.ndarray], *, spacing: float) -> np.ndarray:
    """Return the points [points, 2] of a grid for which `keep` is true."""
    x, y = grid(spacing)
    kept = keep(x, y)
    return np.stack([x[kept], y[kept]], axis=-1)


_POINTS = {shape: _points_within(partial(inside, UNIT_OUTLINES[shape]), spacing=SPACING) for shape in SHAPES}
_CORNERS = {shape: tuple(corners(shape)) for shape in SHAPES}
_SIDES = {shape: tuple(sides(shape)) for shape in SHAPES}
_DISC = _points_within(lambda x, y: np.hypot(x, y) <= SPOT_RADIUS, spacing=SPOT_SPACING)
