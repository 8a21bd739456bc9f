"""Monsters that words describe: how they look, how captions say it, and how they are drawn. The demo's own monster is
none of them: its colours are left out."""

import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

from script.tiny_flux.creatures import new_colour
from script.tiny_flux.monster import EYE, PUPIL
from script.tiny_flux.world import BACKGROUNDS, COLOURS, Colour, draw_background, jitter

BODIES = ("round", "square")
TOPS = ("horns", "ears")
BOTTOMS = ("feet", "legs")
EYES = ("one eye", "two eyes")
NAMED = 0.75  # share of the colours that have a name


@dataclass(frozen=True, slots=True)
class Paint:
    """A colour, and the word for it where the world has one."""

    name: str
    rgb: Colour


@dataclass(frozen=True, slots=True)
class Measures:
    """Factors on the lengths of the demo's monster, whose own are all 1, and the height of its eyes in radii."""

    top_width: float
    top_height: float
    bottom_spread: float
    bottom_size: float
    eye: float
    pupil: float
    eye_rise: float


@dataclass(frozen=True, slots=True)
class DescribedMonster:
    """One individual before a background of the world. All but its measures can be said in words."""

    shape: str
    top: str
    bottom: str
    eyes: str
    body: Paint
    limbs: Paint
    measures: Measures
    background: str


def any_monster(background: str, rng: random.Random) -> DescribedMonster:
    """Any combination of parts, colours and measures."""
    return DescribedMonster(
        shape=rng.choice(BODIES),
        top=rng.choice(TOPS),
        bottom=rng.choice(BOTTOMS),
        eyes=rng.choice(EYES),
        body=_any_paint(rng),
        limbs=_any_paint(rng),
        measures=_any_measures(rng),
        background=background,
    )


def describe(monster: DescribedMonster) -> str:
    """All that words can say: "a purple round monster with green horns and feet and one eye in a meadow"."""
    limbs = " ".join(filter(None, (monster.limbs.name, monster.top)))
    with_parts = f"with {limbs} and {monster.bottom} and {monster.eyes}"
    return f"{_body(monster)} {with_parts} {BACKGROUNDS[monster.background]}"


def describe_briefly(monster: DescribedMonster) -> str:
    """Its body alone: "a purple round monster in a meadow"."""
    return f"{_body(monster)} {BACKGROUNDS[monster.background]}"


def render_described(monster: DescribedMonster, *, width: int, height: int, rng: random.Random) -> Image.Image:
    """Draw a monster; `rng` decides its place and size, as for the demo's."""
    canvas = draw_background(monster.background, width=width, height=height, rng=rng)
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
    """Draws in radii of a body, from its centre."""

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
    wide, high = side * monster.measures.top_width, monster.measures.top_height
    if monster.top == "ears":
        pen.disc(0.66 * wide, -0.82, 0.36 * high, monster.limbs.rgb)
        return
    tip = -0.8 - 0.55 * high
    pen.polygon([(0.25 * wide, -0.8), (0.75 * wide, tip), (0.85 * wide, -0.4)], monster.limbs.rgb)


def _draw_bottom(pen: _Pen, monster: DescribedMonster, side: int) -> None:
    x, size = 0.5 * side * monster.measures.bottom_spread, monster.measures.bottom_size
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
    places, share = ((0.0,), 1.0) if monster.eyes == "one eye" else ((-0.42, 0.42), 0.62)
    for x in places:
        pen.disc(x, -monster.measures.eye_rise, 0.56 * share * monster.measures.eye, EYE)
        pen.disc(x, -monster.measures.eye_rise, 0.27 * share * monster.measures.pupil, PUPIL)


def _body(monster: DescribedMonster) -> str:
    return " ".join(filter(None, ("a", monster.body.name, monster.shape, "monster"))).replace("a orange", "an orange")


def _any_paint(rng: random.Random) -> Paint:
    if rng.random() >= NAMED:
        return Paint("", new_colour(rng))
    name = rng.choice(list(COLOURS))
    return Paint(name, jitter(COLOURS[name], rng))


def _any_measures(rng: random.Random) -> Measures:
    """Round those of the demo's monster, whose eye is 0.08 above the middle."""
    top_width, top_height, bottom_spread, bottom_size, eye, pupil = (rng.uniform(0.85, 1.15) for _ in range(6))
    return Measures(top_width, top_height, bottom_spread, bottom_size, eye, pupil, eye_rise=rng.uniform(0.0, 0.16))
