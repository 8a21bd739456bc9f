"""Where in an image the monster's figure agrees best with the pixels. Knows its geometry, but no thresholds."""

import numpy as np

from script.tiny_flux.monster import FEET, PARTS, Part, Polygon
from script.tiny_flux.placement import Fit, best_placement, grid, inside, pixels_under

NAMES = tuple(part.name for part in PARTS)
BODY_INDEX = NAMES.index("body")
LIMB_INDICES = tuple(index for index, part in enumerate(PARTS) if part.colour == FEET)
OUTSIDE = len(PARTS)  # the index of points that belong to no part

SPACING = 0.07  # distance of the points at which figure and image are compared, in radii of the body
MARGIN = 1.2  # how far to the left and right of the body's centre the surroundings are compared, in radii
DEFAULT_RADIUS = 0.28  # in shorter sides of the image: the middle of `render_monster`'s range, where nothing is found


def best_fit(near: np.ndarray) -> Fit:
    """The place and size at which the parts' mean share of pixels in their colour is largest.

    `near` [parts, H, W] of bool says which pixels have the colour of which part, in the order of `PARTS`. The
    surroundings count as one more part: they should have neither the body's nor the limbs' colour.
    """
    targets = _with_surroundings(near)
    _, height, width = targets.shape

    def agreement(candidates: np.ndarray) -> np.ndarray:
        pixels = pixels_under(candidates, _POINTS, height=height, width=width)
        shares: np.ndarray = targets.reshape(-1)[_PARTS * (height * width) + pixels] @ _WEIGHTS
        return shares

    return best_placement(_estimate(near[BODY_INDEX]), agreement)


def part_at(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The index of the visible part at each point, or `OUTSIDE`. Points are in radii from the centre of the body."""
    found = np.full(np.shape(x), OUTSIDE)
    for index, part in enumerate(PARTS):
        found[_covers(part, x, y)] = index
    return found


def _covers(part: Part, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if isinstance(part, Polygon):
        return inside(part.corners, x, y)
    return np.square(x - part.centre[0]) + np.square(y - part.centre[1]) <= part.radius**2


def _with_surroundings(near: np.ndarray) -> np.ndarray:
    """[parts + 1, H + 2, W + 2]: a margin stands for everything beyond the image, where no part can be."""
    painted = near[BODY_INDEX] | near[list(LIMB_INDICES)].any(axis=0)
    targets = np.pad(np.stack([*near, ~painted]), ((0, 0), (1, 1), (1, 1)))
    targets[OUTSIDE, [0, -1], :] = True
    targets[OUTSIDE, :, [0, -1]] = True
    return targets


def _estimate(body: np.ndarray) -> np.ndarray:
    """[x, y, radius] from the body's pixels [H, W]. Medians, because stray pixels hardly move them."""
    if not body.any():
        return np.array([body.shape[1] / 2, body.shape[0] / 2, DEFAULT_RADIUS * min(body.shape)])
    rows, columns = np.nonzero(body)
    visible = _POINTS[_PARTS == BODY_INDEX]
    radius = np.sqrt(len(rows) / (len(visible) * SPACING**2))
    middle = np.array([np.median(columns) + 0.5, np.median(rows) + 0.5]) - radius * np.median(visible, axis=0)
    return np.array([*middle, radius])


def _figure_points() -> tuple[np.ndarray, np.ndarray]:
    """Points [points, 2] all over the figure and its surroundings, and the part of each [points]."""
    x, y = grid(SPACING)
    near = np.abs(x) < MARGIN
    points = np.stack([x[near], y[near]], axis=-1)
    return points.astype(np.float32), part_at(points[:, 0], points[:, 1])


_POINTS, _PARTS = _figure_points()
_WEIGHTS = (1 / np.bincount(_PARTS)[_PARTS]).astype(np.float32)  # every part counts the same, however large it is
