"""Monsters that captions describe: their parts, their descriptions and their rendering.

None of them has the colours of the demo's monster.
"""

import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

from script.tiny_flux.creatures import new_colour
from script.tiny_flux.monster import EYE, PUPIL
from script.tiny_flux.world import BACKGROUNDS, COLOURS, Colour, jitter, render_background

BODIES = ("round", "square")
TOPS = ("horns", "ears")
BOTTOMS = ("feet", "legs")
EYES = ("one eye", "two eyes")
NAMED = 0.75  # share of the colours that have a name


@dataclass(frozen=True, slots=True)
class NamedColour:
    """A colour, and its name in captions, which is empty for colours without one."""

    name: str
    rgb: Colour


@dataclass(frozen=True, slots=True)
class Proportions:
    """Factors on the lengths of the demo's monster, and the height of the eyes above the centre in radii."""

    top_width: float
    top_height: float
    bottom_spread: float
    bottom_size: float
    eye: float
    pupil: float
    eye_rise: float


@dataclass(frozen=True, slots=True)
class DescribedMonster:
    """A monster on a background of the world. Captions describe all but its proportions."""

    shape: str
    top: str
    bottom: str
    eyes: str
    body: NamedColour
    limbs: NamedColour
    proportions: Proportions
    background: str


def any_monster(background: str, rng: random.Random) -> DescribedMonster:
    """Return a random combination of parts, colours and proportions."""
    return DescribedMonster(
        shape=rng.choice(BODIES),
        top=rng.choice(TOPS),
        bottom=rng.choice(BOTTOMS),
        eyes=rng.choice(EYES),
        body=_any_colour(rng),
        limbs=_any_colour(rng),
        proportions=_any_proportions(rng),
        background=background,
    )


def describe(monster: DescribedMonster) -> str:
    """Return the whole description: "a purple round monster with green horns and feet and one eye in a meadow"."""
    limbs = " ".join(filter(None, (monster.limbs.name, monster.top)))
    with_parts = f"with {limbs} and {monster.bottom} and {monster.eyes}"
    return f"{_body(monster)} {with_parts} {BACKGROUNDS[monster.background]}"


def describe_briefly(monster: DescribedMonster) -> str:
    """Return a description of the body alone: "a purple round monster in a meadow"."""
    return f"{_body(monster)} {BACKGROUNDS[monster.background]}"


def render_described(monster: DescribedMonster, *, width: int, height: int, rng: random.Random) -> Image.Image:
    """Render a monster; `rng` varies its position and size."""
    canvas = render_background(monster.background, width=width, height=height, rng=rng)
    unit = min(canvas.size)
    radius = unit * rng.uniform(0.25, 0.32)
    x, y = (side / 2 + unit * rng.uniform(-0.08, 0.08) for side in canvas.size)
    pen = _Pen(ImageDraw.Draw(canvas), x, y, radius)
    for side in (-1, 1):
        _draw_top(pen, monster, side)
        _draw_bottom(pen, monster, side)
    _draw_body(pen, monster)
    _draw_eyes(pen, monster)
    return canvas.resize((width, height), Image.Resampling.BOX)


@dataclass(frozen=True, slots=True)
class _Pen:
    """Draws in radii of a body, relative to its centre."""

    canvas: ImageDraw.ImageDraw
    x: float
    y: float
    radius: float

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        self.canvas.ellipse(self._box(x - radius, y - radius, x + radius, y + radius), fill=colour)

    def rectangle(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        self.canvas.rectangle(self._box(left, top, right, bottom), fill=colour)

    def polygon(self, points: list[tuple[float, float]], colour: Colour) -> None:
        self.canvas.polygon([(self.x + self.radius * x, self.y + self.radius * y) for x, y in points], fill=colour)

    def _box(self, left: float, top: float, right: float, bottom: float) -> tuple[float, float, float, float]:
        x, y, radius = self.x, self.y, self.radius
        return x + radius * left, y + radius * top, x + radius * right, y + radius * bottom


def _draw_top(pen: _Pen, monster: DescribedMonster, side: int) -> None:
    wide, high = side * monster.proportions.top_width, monster.proportions.top_height
    if monster.top == "ears":
        pen.disc(0.66 * wide, -0.82, 0.36 * high, monster.limbs.rgb)
        return
    tip = -0.8 - 0.55 * high
    pen.polygon([(0.25 * wide, -0.8), (0.75 * wide, tip), (0.85 * wide, -0.4)], monster.limbs.rgb)


def _draw_bottom(pen: _Pen, monster: DescribedMonster, side: int) -> None:
    x, size = 0.5 * side * monster.proportions.bottom_spread, monster.proportions.bottom_size
    if monster.bottom == "feet":
        pen.disc(x, 0.98, 0.34 * size, monster.limbs.rgb)
        return
    half = 0.17 * size
    pen.rectangle(x - half, 0.6, x + half, 1.32 * (0.5 + 0.5 * size), monster.limbs.rgb)


def _draw_body(pen: _Pen, monster: DescribedMonster) -> None:
    if monster.shape == "round":
        pen.disc(0, 0, 1, monster.body.rgb)
    else:
        pen.rectangle(-0.9, -0.9, 0.9, 0.9, monster.body.rgb)


def _draw_eyes(pen: _Pen, monster: DescribedMonster) -> None:
    positions, share = ((0.0,), 1.0) if monster.eyes == "one eye" else ((-0.42, 0.42), 0.62)
    for x in positions:
        pen.disc(x, -monster.proportions.eye_rise, 0.56 * share * monster.proportions.eye, EYE)
        pen.disc(x, -monster.proportions.eye_rise, 0.27 * share * monster.proportions.pupil, PUPIL)


def _body(monster: DescribedMonster) -> str:
    return " ".join(filter(None, ("a", monster.body.name, monster.shape, "monster"))).replace("a orange", "an orange")


def _any_colour(rng: random.Random) -> NamedColour:
    if rng.random() >= NAMED:
        return NamedColour("", new_colour(rng))
    name = rng.choice(list(COLOURS))
    return NamedColour(name, jitter(COLOURS[name], rng))


def _any_proportions(rng: random.Random) -> Proportions:
    """Return proportions near those of the demo's monster: factors of 1, and its eye 0.08 above the centre."""
    top_width, top_height, bottom_spread, bottom_size, eye, pupil = (rng.uniform(0.85, 1.15) for _ in range(6))
    return Proportions(top_width, top_height, bottom_spread, bottom_size, eye, pupil, eye_rise=rng.uniform(0.0, 0.16))
