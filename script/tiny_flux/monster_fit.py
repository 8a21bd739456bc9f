"""Where in an image the monster's figure agrees best with the pixels. Knows its geometry, but no thresholds."""

from dataclasses import dataclass

import numpy as np

from script.tiny_flux.monster import FEET, PARTS, Part, Polygon

NAMES = tuple(part.name for part in PARTS)
BODY_INDEX = NAMES.index("body")
LIMB_INDICES = tuple(index for index, part in enumerate(PARTS) if part.colour == FEET)
OUTSIDE = len(PARTS)  # the index of points that belong to no part

SPACING = 0.07  # distance of the points at which figure and image are compared, in radii of the body
FIRST_STEP, LAST_STEP = 0.12, 0.01  # of the search for place and size, in radii; halved from one to the next
FIRST_REACH, REACH = 2, 1  # steps tried in each direction, at first and later
DEFAULT_RADIUS = 0.28  # in shorter sides of the image: the middle of `render_monster`'s range, where nothing is found


@dataclass(frozen=True, slots=True)
class Fit:
    """Centre and radius of the monster's body, in pixels."""

    x: float
    y: float
    radius: float


def best_fit(near: np.ndarray) -> Fit:
    """The place and size at which the parts' mean share of pixels in their colour is largest.

    `near` [parts, H, W] of bool says which pixels have the colour of which part, in the order of `PARTS`. The
    surroundings count as one more part: they should have neither the body's nor the limbs' colour.
    """
    targets = _with_surroundings(near)
    best, step, reach = _estimate(near[BODY_INDEX]), FIRST_STEP, FIRST_REACH
    while step > LAST_STEP:
        best = _best_of(best + best[2] * step * _moves(reach), targets)
        step, reach = step / 2, REACH
    return Fit(*(float(number) for number in best))


def part_at(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The index of the visible part at each point, or `OUTSIDE`. Points are in radii from the centre of the body."""
    found = np.full(np.shape(x), OUTSIDE)
    for index, part in enumerate(PARTS):
        found[_covers(part, x, y)] = index
    return found


def _covers(part: Part, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if not isinstance(part, Polygon):
        return np.square(x - part.centre[0]) + np.square(y - part.centre[1]) <= part.radius**2
    inside = np.zeros(np.shape(x), dtype=bool)
    for (x0, y0), (x1, y1) in zip(part.corners, part.corners[1:] + part.corners[:1], strict=True):
        if y0 != y1:  # an odd number of edges to the right of a point means that it is inside
            inside ^= ((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) / (y1 - y0) * (x1 - x0))
    return inside


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


def _moves(reach: int) -> np.ndarray:
    """[moves, 3]: all combinations of so many steps back and forth in x, y and radius."""
    steps = np.arange(-reach, reach + 1)
    return np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)


def _best_of(candidates: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The best [x, y, radius] of many: each point of the figure looks up the pixel on which it lies."""
    _, height, width = targets.shape
    places = 1 + candidates[:, None, :2] + candidates[:, None, 2:] * _POINTS  # [candidates, points, 2]
    columns = places[..., 0].clip(0, width - 1).astype(np.intp)
    rows = places[..., 1].clip(0, height - 1).astype(np.intp)
    hits = targets.reshape(-1)[(_PARTS * height + rows) * width + columns]
    best: np.ndarray = candidates[np.argmax(hits @ _WEIGHTS)]
    return best


def _figure_points() -> tuple[np.ndarray, np.ndarray]:
    """A grid over the figure and a margin of a fifth of a radius: points [points, 2] and the part of each [points]."""
    x, y = (axis.reshape(-1) for axis in np.meshgrid(np.arange(-1.2, 1.2, SPACING), np.arange(-1.55, 1.52, SPACING)))
    return np.stack([x, y], axis=-1).astype(np.float32), part_at(x, y)


_POINTS, _PARTS = _figure_points()
_WEIGHTS = (1 / np.bincount(_PARTS)[_PARTS]).astype(np.float32)  # every part counts the same, however large it is
