"""Figures that no word of the captioner names: outlines that are none of the world's shapes. Knows no tensors."""

import math
import random
from collections.abc import Callable

Point = tuple[float, float]
Outline = list[Point]


def any_other_outline(rng: random.Random) -> Outline:
    """Return the outline of a random figure that is none of the world's shapes, about 1 from its centre to its edge."""
    return rng.choice(KINDS)(rng)


def turned(outline: Outline, angle: float) -> Outline:
    """Return an outline that is turned around its centre by an angle in radians."""
    cosine, sine = math.cos(angle), math.sin(angle)
    return [(cosine * x - sine * y, sine * x + cosine * y) for x, y in outline]


def regular(corners: int) -> Outline:
    """Return a regular polygon."""
    return [(math.cos(a), math.sin(a)) for a in (math.tau * index / corners for index in range(corners))]


def spiked(spikes: int, *, notch: float) -> Outline:
    """Return a star of `spikes` tips, whose notches are at `notch` of the tips' distance from the centre."""
    spokes = [(1.0 if index % 2 == 0 else notch, math.pi * index / spikes) for index in range(2 * spikes)]
    return [(length * math.cos(a), length * math.sin(a)) for length, a in spokes]


def cross(half: float) -> Outline:
    """Return an upright cross whose arms are twice `half` wide."""
    arm = [(half, -half), (1.0, -half), (1.0, half), (half, half)]
    return [point for quarter in range(4) for point in turned(arm, quarter * math.pi / 2)]


def _polygon(rng: random.Random) -> Outline:
    return turned(regular(rng.randint(5, 6)), rng.uniform(0, math.tau))


def _spikes(rng: random.Random) -> Outline:
    return turned(spiked(rng.choice((3, 4, 6, 7, 8)), notch=rng.uniform(0.3, 0.6)), rng.uniform(0, math.tau))


def _cross(rng: random.Random) -> Outline:
    return turned(cross(rng.uniform(0.2, 0.4)), rng.choice((0.0, math.pi / 4)))


def _narrow(rng: random.Random) -> Outline:
    """A narrow ellipse, rectangle or rhombus."""
    kind = rng.choice((regular(72), turned(regular(4), math.pi / 4), regular(4)))
    narrowness = rng.uniform(0.25, 0.45)
    return turned([(x, narrowness * y) for x, y in kind], rng.uniform(0, math.tau))


def _half_disc(rng: random.Random) -> Outline:
    return turned(_arc(1.0, 0.0, math.pi), rng.uniform(0, math.tau))


def _crescent(rng: random.Random) -> Outline:
    depth = rng.uniform(0.2, 0.6)
    inner = [(x, depth * y) for x, y in reversed(_arc(1.0, 0.0, math.pi))]
    return turned(_arc(1.0, 0.0, math.pi) + inner, rng.uniform(0, math.tau))


def _blob(rng: random.Random) -> Outline:
    """A lump with several bulges."""
    bulges = [(rng.uniform(0.15, 0.3), count, rng.uniform(0, math.tau)) for count in rng.sample((2, 3, 4, 5), 2)]
    angles = [math.tau * index / 72 for index in range(72)]
    lengths = [0.8 + sum(size * math.sin(count * a + shift) for size, count, shift in bulges) for a in angles]
    return [(length * math.cos(a), length * math.sin(a)) for length, a in zip(lengths, angles, strict=True)]


def _arc(radius: float, start: float, end: float) -> Outline:
    angles = [start + (end - start) * index / 36 for index in range(37)]
    return [(radius * math.cos(a), radius * math.sin(a)) for a in angles]


KINDS: tuple[Callable[[random.Random], Outline], ...] = (
    _polygon,
    _spikes,
    _cross,
    _narrow,
    _half_disc,
    _crescent,
    _blob,
)

# An arrow, a T, an L and a bow tie: for measures alone
UNSEEN: tuple[Outline, ...] = (
    [(-1.0, -0.3), (0.1, -0.3), (0.1, -0.8), (1.0, 0.0), (0.1, 0.8), (0.1, 0.3), (-1.0, 0.3)],
    [(-0.9, -0.9), (0.9, -0.9), (0.9, -0.4), (0.25, -0.4), (0.25, 0.9), (-0.25, 0.9), (-0.25, -0.4), (-0.9, -0.4)],
    [(-0.7, -1.0), (-0.2, -1.0), (-0.2, 0.5), (0.8, 0.5), (0.8, 1.0), (-0.7, 1.0)],
    [(-1.0, -0.7), (0.0, -0.15), (1.0, -0.7), (1.0, 0.7), (0.0, 0.15), (-1.0, 0.7)],
)
