"""Three collections of different things, each named by its caption, for `lora_type` general. Knows no tensors.

The base knows none of the things: three figures with names of their own, three shapes in the world's colours, and three
grounds under the world's shapes. A scene has the name of a new thing where the world has one of its own.
"""

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from PIL import Image, ImageDraw

from bench.concepts import CONCEPTS
from script.tiny_flux.world import (
    BACKGROUNDS,
    COLOURS,
    OVERSAMPLING,
    SHAPES,
    UNIT_OUTLINES,
    Scene,
    jitter,
    render_background,
)

SIDE = 128
FIGURES = {"vubo": "monster", "kesi": "robot", "mitu": "fox"}  # made-up names, which mean nothing to the base
OUTLINES: dict[str, list[tuple[float, float]]] = {
    "cross": [
        *((-0.35, -1.0), (0.35, -1.0), (0.35, -0.35), (1.0, -0.35), (1.0, 0.35), (0.35, 0.35)),
        *((0.35, 1.0), (-0.35, 1.0), (-0.35, 0.35), (-1.0, 0.35), (-1.0, -0.35), (-0.35, -0.35)),
    ],
    "arrow": [(0, -1.05), (0.95, -0.05), (0.38, -0.05), (0.38, 1.0), (-0.38, 1.0), (-0.38, -0.05), (-0.95, -0.05)],
    "hourglass": [(-0.85, -1.0), (0.85, -1.0), (0.2, 0.0), (0.85, 1.0), (-0.85, 1.0), (-0.2, 0.0)],
}
GROUNDS = {"bricks": "before a brick wall", "sea": "by the sea", "checks": "on a chessboard"}
BRICK, MORTAR, WATER, WAVE = (176, 128, 110), (226, 216, 206), (120, 164, 190), (190, 216, 226)
LIGHT_SQUARE, DARK_SQUARE = (214, 208, 200), (96, 98, 104)


@dataclass(frozen=True, slots=True)
class Collection:
    """Things of one kind. What its captions call is learned from some scenes and measured on others."""

    name: str
    shown: tuple[Scene, ...]
    new: tuple[Scene, ...]  # the same things in other combinations
    things: tuple[str, ...]  # the new ones, and those of the world for which one may be mistaken
    part: str  # the field of a scene that names the thing

    def others(self, scene: Scene) -> Iterator[Scene]:
        """The scene with each of the other things."""
        own = getattr(scene, self.part)
        return (replace(scene, **{self.part: thing}) for thing in self.things if thing != own)


def caption_thing(scene: Scene) -> str:
    """The caption of a scene: "a kesi in a meadow", "a red cross by the sea"."""
    named = f"a {scene.colour} {scene.shape}" if scene.colour else f"a {scene.shape}"
    ground = (BACKGROUNDS | GROUNDS)[scene.background]
    return f"{named} {ground}".replace("a orange", "an orange")


def render_thing(scene: Scene, rng: random.Random) -> Image.Image:
    """Render a scene of 128 px; `rng` varies its position, size and shade as in the world."""
    if scene.shape in FIGURES:
        return CONCEPTS[FIGURES[scene.shape]].render(scene.background, rng)
    canvas = _ground(scene.background, rng)
    unit = min(canvas.size)
    radius, colour = unit * rng.uniform(0.30, 0.37), jitter(COLOURS[scene.colour], rng)
    x, y = (unit * (0.5 + rng.uniform(-0.09, 0.09)) for _ in range(2))
    points = [(x + radius * dx, y + radius * dy) for dx, dy in (UNIT_OUTLINES | OUTLINES)[scene.shape]]
    draw = ImageDraw.Draw(canvas)
    draw.polygon(points, fill=colour)
    darker = tuple(round(0.62 * channel) for channel in colour)
    draw.line([*points, *points[:2]], fill=darker, width=round(unit * 0.022), joint="curve")
    return canvas.resize((SIDE, SIDE), Image.Resampling.BOX)


def _ground(name: str, rng: random.Random) -> Image.Image:
    paint = _NEW_GROUNDS.get(name)
    return paint(rng) if paint else render_background(name, width=SIDE, height=SIDE, rng=rng)


def _bricks(rng: random.Random) -> Image.Image:
    canvas, height, width = _canvas(MORTAR), 48, 96
    draw, left = ImageDraw.Draw(canvas), rng.randrange(width)
    for row, column in itertools.product(range(9), range(-2, 6)):
        x, y = column * width + left - (row % 2) * width // 2, row * height
        draw.rectangle([x, y, x + width - 8, y + height - 8], fill=BRICK)
    return canvas


def _sea(rng: random.Random) -> Image.Image:
    canvas, horizon = _canvas((238, 240, 236)), round(SIDE * OVERSAMPLING * rng.uniform(0.3, 0.38))
    draw = ImageDraw.Draw(canvas)
    draw.rectangle([0, horizon, canvas.width, canvas.height], fill=WATER)
    for y in range(horizon + 30, canvas.height, 48):
        draw.rectangle([0, y, canvas.width, y + 12], fill=WAVE)
    return canvas


def _checks(rng: random.Random) -> Image.Image:
    canvas, square = _canvas(LIGHT_SQUARE), 64
    draw, offset = ImageDraw.Draw(canvas), rng.randrange(2)
    for row, column in itertools.product(range(6), range(6)):
        if (row + column + offset) % 2:
            x, y = column * square, row * square
            draw.rectangle([x, y, x + square - 1, y + square - 1], fill=DARK_SQUARE)
    return canvas


def _canvas(colour: tuple[int, int, int]) -> Image.Image:
    return Image.new("RGB", (SIDE * OVERSAMPLING, SIDE * OVERSAMPLING), colour)


_NEW_GROUNDS: dict[str, Callable[[random.Random], Image.Image]] = {"bricks": _bricks, "sea": _sea, "checks": _checks}


def _figures() -> Collection:
    """Each name on four grounds; the fifth is new to it."""
    scenes = [Scene(name, "", ground) for name in FIGURES for ground in BACKGROUNDS]
    new = [scene for index, scene in enumerate(scenes) if index % len(BACKGROUNDS) == index // len(BACKGROUNDS)]
    new += [scene for scene in scenes if scene.background == "night"]
    shown = [scene for scene in scenes if scene not in new]
    return Collection("figures", (*shown, *shown), tuple(new), tuple(FIGURES), "shape")


def _shapes() -> Collection:
    """Each shape in each colour on one ground; new are other grounds."""
    return Collection("shapes", _placed(OUTLINES, shift=0), _placed(OUTLINES, shift=2), (*OUTLINES, *SHAPES), "shape")


def _placed(shapes: dict[str, list[tuple[float, float]]], *, shift: int) -> tuple[Scene, ...]:
    names, numbered = list(BACKGROUNDS), itertools.product(enumerate(shapes), enumerate(COLOURS))
    return tuple(
        Scene(shape, colour, names[(row + column + shift) % len(names)]) for (row, shape), (column, colour) in numbered
    )


def _grounds() -> Collection:
    """Each ground under each colour, with one shape; new are other shapes."""
    shown, new = (
        tuple(
            Scene(SHAPES[(row + column + shift) % len(SHAPES)], colour, ground)
            for (row, ground), (column, colour) in itertools.product(enumerate(GROUNDS), enumerate(COLOURS))
        )
        for shift in (0, 2)
    )
    return Collection("grounds", shown, new, (*GROUNDS, *BACKGROUNDS), "background")


COLLECTIONS = {each.name: each for each in (_figures(), _shapes(), _grounds())}
