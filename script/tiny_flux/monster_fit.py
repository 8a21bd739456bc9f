"""Finds the position and size at which the monster's figure matches an image best. Knows no thresholds."""

import numpy as np

from script.tiny_flux.monster import FEET, PARTS, Part, Polygon
from script.tiny_flux.placement import Fit, best_placement, grid, inside, pixels_under

NAMES = tuple(part.name for part in PARTS)
BODY_INDEX = NAMES.index("body")
LIMB_INDICES = tuple(index for index, part in enumerate(PARTS) if part.colour == FEET)
OUTSIDE = len(PARTS)  # the index of points that belong to no part

SPACING = 0.07  # between the points at which figure and image are compared, in radii of the body
MARGIN = 1.2  # width of the surroundings to compare, left and right of the body's centre, in radii
DEFAULT_RADIUS = 0.28  # relative to the shorter side, if no body is found: about the middle of `render_monster`'s range


def best_fit(near: np.ndarray) -> Fit:
    """Return the position and size that maximize the share of pixels in the right colour, averaged over the parts.

    `near` is bool [parts, H, W]: which pixels have the colour of which part, in the order of `PARTS`. The surroundings
    count as one more part, which should have neither the body's nor the limbs' colour.
    """
    targets = _with_surroundings(near)
    _, height, width = targets.shape

    def agreement(candidates: np.ndarray) -> np.ndarray:
        pixels = pixels_under(candidates, _POINTS, height=height, width=width)
        shares: np.ndarray = targets.reshape(-1)[_PARTS * (height * width) + pixels] @ _WEIGHTS
        return shares

    return best_placement(_estimate(near[BODY_INDEX]), agreement)


def part_at(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the index of the visible part at each point, or `OUTSIDE`; x and y are in radii from the body's centre."""
    found = np.full(np.shape(x), OUTSIDE)
    for index, part in enumerate(PARTS):
        found[_covers(part, x, y)] = index
    return found


def _covers(part: Part, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if isinstance(part, Polygon):
        return inside(part.corners, x, y)
    return np.square(x - part.centre[0]) + np.square(y - part.centre[1]) <= part.radius**2


def _with_surroundings(near: np.ndarray) -> np.ndarray:
    """Return bool [parts + 1, H + 2, W + 2]. The margin stands for the outside of the image, where no part can be."""
    in_colour = near[BODY_INDEX] | near[list(LIMB_INDICES)].any(axis=0)
    targets = np.pad(np.stack([*near, ~in_colour]), ((0, 0), (1, 1), (1, 1)))
    targets[OUTSIDE, [0, -1], :] = True
    targets[OUTSIDE, :, [0, -1]] = True
    return targets


def _estimate(body: np.ndarray) -> np.ndarray:
    """Return [x, y, radius] from the body's pixels [H, W], by medians, which stray pixels hardly change."""
    if not body.any():
        return np.array([body.shape[1] / 2, body.shape[0] / 2, DEFAULT_RADIUS * min(body.shape)])
    rows, columns = np.nonzero(body)
    visible = _POINTS[_PARTS == BODY_INDEX]
    radius = np.sqrt(len(rows) / (len(visible) * SPACING**2))
    middle = np.array([np.median(columns) + 0.5, np.median(rows) + 0.5]) - radius * np.median(visible, axis=0)
    return np.array([*middle, radius])


def _figure_points() -> tuple[np.ndarray, np.ndarray]:
    """Return a grid of points [points, 2] over the figure and its surroundings, and the part at each [points]."""
    x, y = grid(SPACING)
    near = np.abs(x) < MARGIN
    points = np.stack([x[near], y[near]], axis=-1)
    return points.astype(np.float32), part_at(points[:, 0], points[:, 1])


_POINTS, _PARTS = _figure_points()
_WEIGHTS = (1 / np.bincount(_PARTS)[_PARTS]).astype(np.float32)  # all parts have the same weight, whatever their size
