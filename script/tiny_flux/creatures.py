"""Figures that the world has no words for: the autoencoder learns to carry them, and LoRAs for practice are trained on
them. The demo's monster is none of them: its colours are left out."""

import math
import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

from script.tiny_flux.monster import BODY, FEET
from script.tiny_flux.world import Colour, draw_background

UNLIKE_THE_MONSTER = 0.35 * 255  # distance in RGB
SYLLABLES = tuple(first + second for first in "bdfgklmnprstvwz" for second in "aeiou")
EYE_WHITE, PUPIL_BLACK = (250, 250, 250), (20, 20, 30)


@dataclass(frozen=True, slots=True)
class Part:
    """A disc (no corners) or a regular polygon. Lengths are in radii of the body, from its centre."""

    x: float
    y: float
    radius: float
    colour: Colour
    corners: int
    turn: float


@dataclass(frozen=True, slots=True)
class Build:
    """The forms of a creature without their colours: pairs of limbs behind a body, rings upon it."""

    limbs: tuple[Part, ...]
    body: Part
    rings: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Creature:
    """A figure before a background of the world."""

    parts: tuple[Part, ...]
    background: str


def any_creature(background: str, rng: random.Random) -> Creature:
    """Any build in any colours but the monster's."""
    return Creature(_coloured(_build(rng), body=new_colour(rng), limbs=new_colour(rng)), background)


def render_creature(creature: Creature, *, width: int, height: int, rng: random.Random) -> Image.Image:
    """Draw a creature; `rng` decides its place and size."""
    canvas = draw_background(creature.background, width=width, height=height, rng=rng)
    unit = min(canvas.size)
    scale = unit * rng.uniform(0.25, 0.32)
    x, y = (side / 2 + unit * rng.uniform(-0.08, 0.08) for side in canvas.size)
    draw = ImageDraw.Draw(canvas)
    for part in creature.parts:
        _draw_part(draw, part, x=x, y=y, scale=scale)
    return canvas.resize((width, height), Image.Resampling.BOX)


def new_colour(rng: random.Random) -> Colour:
    """Any colour that is not like one of the monster's."""
    while True:
        colour = (rng.randint(0, 255), rng.randint(0, 255), rng.randint(0, 255))
        if min(math.dist(colour, BODY), math.dist(colour, FEET)) > UNLIKE_THE_MONSTER:
            return colour


def _build(rng: random.Random) -> Build:
    limbs = [limb for _ in range(rng.randint(0, 2)) for limb in _pair_of_limbs(rng)]
    y = rng.uniform(-0.15, 0.15)
    colours = (EYE_WHITE, PUPIL_BLACK, new_colour(rng))
    rings = [_part(0, y, radius, rng.choice(colours), rng) for radius in (0.56, 0.27)[: rng.randint(0, 2)]]
    return Build(tuple(limbs), _part(0, 0, 1, (0, 0, 0), rng), tuple(rings))


def _pair_of_limbs(rng: random.Random) -> list[Part]:
    """Left and right, in mirrored places."""
    angle, distance = rng.uniform(-math.pi / 2, math.pi / 2), rng.uniform(0.9, 1.15)
    x, y = distance * math.cos(angle), distance * math.sin(angle)
    right = _part(x, y, rng.uniform(0.25, 0.5), (0, 0, 0), rng)
    return [right, Part(-x, y, right.radius, right.colour, right.corners, math.pi - right.turn)]


def _part(x: float, y: float, radius: float, colour: Colour, rng: random.Random) -> Part:
    corners = 0 if rng.random() < 0.6 else rng.randint(3, 6)
    return Part(x, y, radius, colour, corners, rng.uniform(0, math.tau))


def _coloured(build: Build, *, body: Colour, limbs: Colour) -> tuple[Part, ...]:
    """The parts in the order in which they are painted."""
    return (*(_painted(limb, limbs) for limb in build.limbs), _painted(build.body, body), *build.rings)


def _painted(part: Part, colour: Colour) -> Part:
    return Part(part.x, part.y, part.radius, colour, part.corners, part.turn)


def _draw_part(draw: ImageDraw.ImageDraw, part: Part, *, x: float, y: float, scale: float) -> None:
    centre_x, centre_y, radius = x + scale * part.x, y + scale * part.y, scale * part.radius
    if not part.corners:
        draw.ellipse([centre_x - radius, centre_y - radius, centre_x + radius, centre_y + radius], fill=part.colour)
        return
    angles = [part.turn + math.tau * index / part.corners for index in range(part.corners)]
    draw.polygon([(centre_x + radius * math.cos(a), centre_y + radius * math.sin(a)) for a in angles], fill=part.colour)
