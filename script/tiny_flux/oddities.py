"""Things without a name: random figures in random colours. They give made-up words a meaning, so that the base has room
for what a LoRA will call by a trigger word. The monster's colours are left out: they stay new to the base."""

import math
import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

from script.tiny_flux.monster import BODY, FEET
from script.tiny_flux.world import Colour, draw_background

UNLIKE_THE_MONSTER = 0.35 * 255  # distance in RGB


@dataclass(frozen=True, slots=True)
class Oddity:
    """A nameless figure before a background of the world."""

    background: str


def render_oddity(oddity: Oddity, *, width: int, height: int, rng: random.Random) -> Image.Image:
    """A body, parts that stick out behind it and spots upon it."""
    canvas = draw_background(oddity.background, width=width, height=height, rng=rng)
    unit = min(canvas.size)
    radius = unit * rng.uniform(0.22, 0.36)
    x, y = (side / 2 + unit * rng.uniform(-0.1, 0.1) for side in canvas.size)
    draw = ImageDraw.Draw(canvas)
    part_colour = new_colour(rng)
    for _ in range(rng.randint(0, 4)):
        turn, size = rng.uniform(0, math.tau), radius * rng.uniform(0.2, 0.5)
        _figure(draw, x + radius * math.cos(turn), y + radius * math.sin(turn), size, part_colour, rng)
    _figure(draw, x, y, radius, new_colour(rng), rng)
    for share in (0.55, 0.27)[: rng.randint(0, 2)]:
        _figure(draw, x, y + radius * rng.uniform(-0.1, 0.1), radius * share, new_colour(rng), rng)
    return canvas.resize((width, height), Image.Resampling.BOX)


def new_colour(rng: random.Random) -> Colour:
    """Any colour that is not like one of the monster's."""
    while True:
        colour = (rng.randint(0, 255), rng.randint(0, 255), rng.randint(0, 255))
        if min(math.dist(colour, BODY), math.dist(colour, FEET)) > UNLIKE_THE_MONSTER:
            return colour


def _figure(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: Colour, rng: random.Random) -> None:
    """A disc, half of the time; else a polygon of three to six corners."""
    if rng.random() < 0.5:
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)
        return
    corners, turn = rng.randint(3, 6), rng.uniform(0, math.tau)
    angles = [turn + math.tau * index / corners for index in range(corners)]
    draw.polygon([(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles], fill=colour)
