"""Finds the position and size at which a figure matches an image best. Knows no figure.

Points of a figure are in its radii, relative to its centre, x to the right and y downwards. A candidate is
[x, y, radius] in pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

FIRST_STEP, LAST_STEP = 0.12, 0.01  # of the search, in radii; each step is half of the one before
FIRST_REACH, REACH = 2, 1  # steps tried in each direction, at first and later


@dataclass(frozen=True, slots=True)
class Fit:
    """Centre and radius of a figure, in pixels."""

    x: float
    y: float
    radius: float


def best_placement(estimate: np.ndarray, agreement: Callable[[np.ndarray], np.ndarray]) -> Fit:
    """Return the best candidate near an estimate [3]; `agreement` maps candidates [candidates, 3] to scores, higher is
    better."""
    best, step, reach = estimate, FIRST_STEP, FIRST_REACH
    while step > LAST_STEP:
        candidates = best + best[2] * step * _moves(reach)
        best, step, reach = candidates[np.argmax(agreement(candidates))], step / 2, REACH
    return Fit(*(float(number) for number in best))


def _moves(reach: int) -> np.ndarray:
    """Return [moves, 3]: all combinations of up to `reach` steps in both directions of x, y and radius."""
    steps = np.arange(-reach, reach + 1)
    return np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)


def pixels_under(candidates: np.ndarray, points: np.ndarray, *, height: int, width: int) -> np.ndarray:
    """Return [candidates, points]: the pixel under each of `points` [points, 2] for each candidate [candidates, 3].

    Pixels are flat indices into an image of `height` x `width` that has a margin of one pixel on each side; the margin
    stands for everything outside the image.
    """
    positions = 1 + candidates[:, None, :2] + candidates[:, None, 2:] * points
    columns = positions[..., 0].clip(0, width - 1).astype(np.intp)
    rows = positions[..., 1].clip(0, height - 1).astype(np.intp)
    return rows * width + columns


def pixel_centres(fit: Fit, *, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y [H, W] of the centre of each pixel, in radii, relative to the centre of the figure."""
    rows, columns = np.mgrid[:height, :width] + 0.5
    return (columns - fit.x) / fit.radius, (rows - fit.y) / fit.radius


def grid(spacing: float) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y [points] of a grid over the square of 1.6 radii around the centre of a figure."""
    axis = np.arange(-1.6 + spacing / 2, 1.6, spacing)
    x, y = (coordinates.reshape(-1) for coordinates in np.meshgrid(axis, axis))
    return x, y


def inside(corners: Sequence[tuple[float, float]], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return which points lie inside a polygon: those with an odd number of its edges to their right."""
    odd = np.zeros(np.shape(x), dtype=bool)
    for (x0, y0), (x1, y1) in zip(corners, (*corners[1:], corners[0]), strict=True):
        if y0 != y1:
            odd ^= ((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) / (y1 - y0) * (x1 - x0))
    return odd


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Return the intersection over union of two masks, 0..1."""
    return float((one & other).sum() / max(1, (one | other).sum()))
