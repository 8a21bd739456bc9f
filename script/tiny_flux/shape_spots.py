"""The spots at which an object is inspected: near the corners and along the sides of the world's outlines."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from script.tiny_flux.placement import inside
from script.tiny_flux.world import UNIT_OUTLINES

# Indices of points in the outlines of world.py. A side starts at its index, and is inspected at its middle.
TIPS = {"square": (0, 1, 2, 3), "triangle": (0, 1, 2), "star": (0, 2, 4, 6, 8), "heart": (36,)}
NOTCHES = {"star": (1, 3, 5, 7, 9), "heart": (0,)}
SIDES = {
    "circle": tuple(range(0, 72, 6)),
    "square": tuple(range(4)),
    "triangle": tuple(range(3)),
    "star": tuple(range(10)),
    "heart": (8, 14, 20, 26, 45, 51, 57, 63),
}
TIP_DEPTH, NOTCH_DEPTH, SIDE_DEPTH = 0.27, 0.33, 0.15  # distances of the spots from corners and sides, in radii


@dataclass(frozen=True, slots=True)
class Spot:
    """A small disc near the outline. The object must cover more than half of it, or less than half."""

    name: str
    centre: np.ndarray  # [2], in radii, relative to the centre of the figure
    covered: bool  # whether it must be more than half


@dataclass(frozen=True, slots=True)
class Side:
    """The spots inside and outside the outline at the middle of a side."""

    inner: Spot
    outer: Spot


def corners(shape: str) -> Iterator[Spot]:
    """Yield a spot inside each tip, and one outside each notch."""
    outline = np.array(UNIT_OUTLINES[shape])
    for number, index in enumerate(TIPS.get(shape, ()), start=1):
        yield Spot(f"tip {number}", _moved(outline, index, -TIP_DEPTH), covered=True)
    for number, index in enumerate(NOTCHES.get(shape, ()), start=1):
        yield Spot(f"notch {number}", _moved(outline, index, NOTCH_DEPTH), covered=False)


def _moved(outline: np.ndarray, index: int, distance: float) -> np.ndarray:
    """Return a corner of the outline [points, 2], moved away from its middle by a distance."""
    middle = np.array([0.0, outline[:, 1].mean()])  # all outlines are symmetric
    direction = outline[index] - middle
    moved: np.ndarray = outline[index] + direction * distance / np.linalg.norm(direction)
    return moved


def sides(shape: str) -> Iterator[Side]:
    """Yield the spots of each side."""
    outline = np.array(UNIT_OUTLINES[shape])
    for number, index in enumerate(SIDES[shape], start=1):
        start, end = outline[index], outline[(index + 1) % len(outline)]
        along = (end - start) / np.linalg.norm(end - start)
        across = SIDE_DEPTH * np.array([-along[1], along[0]])
        outer, inner = sorted(((start + end) / 2 + [across, -across]), key=lambda point: _is_in(shape, point))
        yield Side(
            inner=Spot(f"inner edge {number}", inner, covered=True),
            outer=Spot(f"outer edge {number}", outer, covered=False),
        )


def _is_in(shape: str, point: np.ndarray) -> bool:
    return bool(inside(UNIT_OUTLINES[shape], point[0], point[1]))
