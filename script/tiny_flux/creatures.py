"""Figures that no caption describes. The autoencoder and the practice LoRAs are trained on them.

None of them has the colours of the demo's monster.
"""

import math
import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

from script.tiny_flux.monster import BODY, FEET
from script.tiny_flux.world import Colour, render_background

MIN_COLOUR_DISTANCE = 0.35 * 255  # in RGB, from the colours of the demo's monster
SYLLABLES = tuple(first + second for first in "bdfgklmnprstvwz" for second in "aeiou")
EYE_WHITE, PUPIL_BLACK = (250, 250, 250), (20, 20, 30)


@dataclass(frozen=True, slots=True)
class Part:
    """A disc (no corners) or a regular polygon. Lengths are in radii of the body, positions relative to its centre."""

    x: float
    y: float
    radius: float
    colour: Colour
    corners: int
    turn: float


@dataclass(frozen=True, slots=True)
class CreatureParts:
    """The parts of a creature before their colours are chosen: pairs of limbs behind a body, rings in front of it."""

    limbs: tuple[Part, ...]
    body: Part
    rings: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Creature:
    """A figure on a background of the world."""

    parts: tuple[Part, ...]
    background: str


def any_creature(background: str, rng: random.Random) -> Creature:
    """Return random parts in random colours, except those of the demo's monster."""
    return Creature(_coloured(_any_parts(rng), body=new_colour(rng), limbs=new_colour(rng)), background)


def render_creature(creature: Creature, *, width: int, height: int, rng: random.Random) -> Image.Image:
    """Render a creature; `rng` varies its position and size."""
    canvas = render_background(creature.background, width=width, height=height, rng=rng)
    unit = min(canvas.size)
    scale = unit * rng.uniform(0.25, 0.32)
    x, y = (side / 2 + unit * rng.uniform(-0.08, 0.08) for side in canvas.size)
    draw = ImageDraw.Draw(canvas)
    for part in creature.parts:
        _draw_part(draw, part, x=x, y=y, scale=scale)
    return canvas.resize((width, height), Image.Resampling.BOX)


def new_colour(rng: random.Random) -> Colour:
    """Return a random colour that is not similar to one of the demo monster's."""
    while True:
        colour = (rng.randint(0, 255), rng.randint(0, 255), rng.randint(0, 255))
        if min(math.dist(colour, BODY), math.dist(colour, FEET)) > MIN_COLOUR_DISTANCE:
            return colour


def _any_parts(rng: random.Random) -> CreatureParts:
    limbs = [limb for _ in range(rng.randint(0, 2)) for limb in _pair_of_limbs(rng)]
    y = rng.uniform(-0.15, 0.15)
    colours = (EYE_WHITE, PUPIL_BLACK, new_colour(rng))
    rings = [_part(0, y, radius, rng.choice(colours), rng) for radius in (0.56, 0.27)[: rng.randint(0, 2)]]
    return CreatureParts(tuple(limbs), _part(0, 0, 1, (0, 0, 0), rng), tuple(rings))


def _pair_of_limbs(rng: random.Random) -> list[Part]:
    """Return a right and a left limb, mirrored."""
    angle, distance = rng.uniform(-math.pi / 2, math.pi / 2), rng.uniform(0.9, 1.15)
    x, y = distance * math.cos(angle), distance * math.sin(angle)
    right = _part(x, y, rng.uniform(0.25, 0.5), (0, 0, 0), rng)
    return [right, Part(-x, y, right.radius, right.colour, right.corners, math.pi - right.turn)]


def _part(x: float, y: float, radius: float, colour: Colour, rng: random.Random) -> Part:
    corners = 0 if rng.random() < 0.6 else rng.randint(3, 6)
    return Part(x, y, radius, colour, corners, rng.uniform(0, math.tau))


def _coloured(parts: CreatureParts, *, body: Colour, limbs: Colour) -> tuple[Part, ...]:
    """Return the parts in drawing order."""
    return (*(_in_colour(limb, limbs) for limb in parts.limbs), _in_colour(parts.body, body), *parts.rings)


def _in_colour(part: Part, colour: Colour) -> Part:
    return Part(part.x, part.y, part.radius, colour, part.corners, part.turn)


def _draw_part(draw: ImageDraw.ImageDraw, part: Part, *, x: float, y: float, scale: float) -> None:
    centre_x, centre_y, radius = x + scale * part.x, y + scale * part.y, scale * part.radius
    if not part.corners:
        draw.ellipse([centre_x - radius, centre_y - radius, centre_x + radius, centre_y + radius], fill=part.colour)
        return
    angles = [part.turn + math.tau * index / part.corners for index in range(part.corners)]
    draw.polygon([(centre_x + radius * math.cos(a), centre_y + radius * math.sin(a)) for a in angles], fill=part.colour)
