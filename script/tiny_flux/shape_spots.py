"""Where near the outlines of the world's shapes an object is inspected: at their corners and along their sides."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from script.tiny_flux.placement import inside
from script.tiny_flux.world import UNIT_OUTLINES

# Indices into the outlines of world.py. A side begins at its index; its middle is inspected.
TIPS = {"square": (0, 1, 2, 3), "triangle": (0, 1, 2), "star": (0, 2, 4, 6, 8), "heart": (36,)}
NOTCHES = {"star": (1, 3, 5, 7, 9), "heart": (0,)}
SIDES = {
    "circle": tuple(range(0, 72, 6)),
    "square": tuple(range(4)),
    "triangle": tuple(range(3)),
    "star": tuple(range(10)),
    "heart": (8, 14, 20, 26, 45, 51, 57, 63),
}
TIP_DEPTH, NOTCH_DEPTH, SIDE_DEPTH = 0.27, 0.33, 0.15  # how far from each the object is inspected, in radii


@dataclass(frozen=True, slots=True)
class Spot:
    """The centre of a small disc near the outline; the object must cover more than half of it, or less than half."""

    name: str
    place: np.ndarray  # [2], in radii from the centre of the figure
    covered: bool


@dataclass(frozen=True, slots=True)
class Side:
    """The middle of a side of the outline, inspected on both sides of it."""

    inner: Spot
    outer: Spot


def corners(shape: str) -> Iterator[Spot]:
    """The inside of each tip, and the outside of each notch."""
    outline = np.array(UNIT_OUTLINES[shape])
    for number, index in enumerate(TIPS.get(shape, ()), start=1):
        yield Spot(f"tip {number}", _moved(outline, index, -TIP_DEPTH), covered=True)
    for number, index in enumerate(NOTCHES.get(shape, ()), start=1):
        yield Spot(f"notch {number}", _moved(outline, index, NOTCH_DEPTH), covered=False)


def _moved(outline: np.ndarray, index: int, distance: float) -> np.ndarray:
    """A corner moved so far away from the middle of the outline [points, 2]."""
    middle = np.array([0.0, outline[:, 1].mean()])  # all outlines are symmetric
    direction = outline[index] - middle
    moved: np.ndarray = outline[index] + direction * distance / np.linalg.norm(direction)
    return moved


def sides(shape: str) -> Iterator[Side]:
    """Both sides of the outline at the middle of each side."""
    outline = np.array(UNIT_OUTLINES[shape])
    for number, index in enumerate(SIDES[shape], start=1):
        start, end = outline[index], outline[(index + 1) % len(outline)]
        along = (end - start) / np.linalg.norm(end - start)
        across = SIDE_DEPTH * np.array([-along[1], along[0]])
        outer, inner = sorted(((start + end) / 2 + [across, -across]), key=lambda place: _is_in(shape, place))
        yield Side(
            inner=Spot(f"inner edge {number}", inner, covered=True),
            outer=Spot(f"outer edge {number}", outer, covered=False),
        )


def _is_in(shape: str, place: np.ndarray) -> bool:
    return bool(inside(UNIT_OUTLINES[shape], place[0], place[1]))
