"""The three figures of the learning benchmark, which the base is not trained on, rendered by code. Knows no tensors.

Beside the demo's monster there are two whose shapes no creature of the base's training has: those consist of mirrored
discs and regular polygons, while these have stripes, a tapering tower, and a tail on one side.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageDraw

from script.tiny_flux.monster import SIDE, render_monster
from script.tiny_flux.world import BACKGROUNDS, OVERSAMPLING, Colour, render_background

BRICK, CREAM, LIME, STEEL = (150, 72, 48), (252, 236, 204), (196, 240, 60), (92, 104, 118)
SKY, SNOW, COAL, ROSE = (116, 190, 250), (250, 250, 252), (24, 22, 34), (236, 128, 150)
TRAINING_IMAGES, TRAINING_SEED, HELD_OUT_SEED, REFERENCE_SEED = 15, 7, 99, 177

Point = tuple[float, float]
Render = Callable[[str, random.Random], Image.Image]


@dataclass(frozen=True, slots=True)
class Concept:
    """A figure, and the function that renders it on a background of the world."""

    name: str
    render: Render

    def images(self, count: int, *, seed: int) -> list[tuple[str, Image.Image]]:
        """`count` images of 128 px, each with the name of its background; the world's backgrounds are used in turn."""
        rng = random.Random(seed)
        names = [list(BACKGROUNDS)[index % len(BACKGROUNDS)] for index in range(count)]
        return [(name, self.render(name, rng)) for name in names]


class _Figure:
    """Draws shapes in coordinates relative to the figure's centre and size."""

    def __init__(self, canvas: Image.Image, rng: random.Random, *, smallest: float, largest: float) -> None:
        unit = min(canvas.size)
        self._draw, self._scale = ImageDraw.Draw(canvas), unit * rng.uniform(smallest, largest)
        self._x, self._y = (side / 2 + unit * rng.uniform(-0.08, 0.08) for side in canvas.size)

    def polygon(self, *corners: Point, fill: Colour) -> None:
        self._draw.polygon([self._at(corner) for corner in corners], fill=fill)

    def disc(self, centre: Point, radius: float, *, fill: Colour, squash: float = 1.0) -> None:
        (x, y), reach = self._at(centre), self._scale * radius
        self._draw.ellipse([x - reach, y - reach * squash, x + reach, y + reach * squash], fill=fill)

    def _at(self, point: Point) -> Point:
        return self._x + self._scale * point[0], self._y + self._scale * point[1]


def _robot(background: str, rng: random.Random) -> Image.Image:
    """A striped lighthouse with a lamp for a head, an aerial and arms."""
    canvas = render_background(background, width=SIDE, height=SIDE, rng=rng)
    pen = _Figure(canvas, rng, smallest=0.26, largest=0.31)
    for side in (-1, 1):
        pen.polygon((side * 0.3, -0.28), (side * 0.98, 0.06), (side * 0.9, 0.26), (side * 0.3, 0.0), fill=STEEL)
        pen.disc((side * 0.95, 0.17), 0.19, fill=LIME)
    for stripe in range(5):
        top, bottom = -0.45 + 0.3 * stripe, -0.15 + 0.3 * stripe
        fill = BRICK if stripe % 2 == 0 else CREAM
        pen.polygon(
            (-_half_width(top), top), (_half_width(top), top), (_half_width(bottom), bottom),
            (-_half_width(bottom), bottom), fill=fill,
        )  # fmt: skip
    pen.polygon((-0.04, -1.3), (0.04, -1.3), (0.04, -0.9), (-0.04, -0.9), fill=STEEL)
    pen.polygon((-0.5, -0.95), (0.5, -0.95), (0.5, -0.45), (-0.5, -0.45), fill=LIME)
    pen.polygon((-0.6, -1.03), (0.6, -1.03), (0.6, -0.89), (-0.6, -0.89), fill=STEEL)
    for side in (-1, 1):
        pen.disc((side * 0.22, -0.68), 0.12, fill=COAL)
    return _scaled_down(canvas)


def _half_width(y: float) -> float:
    """Half of the tower's width, which grows downwards."""
    return 0.46 + 0.22 * (y + 0.45) / 1.5


def _fox(background: str, rng: random.Random) -> Image.Image:
    """A pale blue fox that sits, its tail to its right."""
    canvas = render_background(background, width=SIDE, height=SIDE, rng=rng)
    pen = _Figure(canvas, rng, smallest=0.26, largest=0.31)
    pen.polygon((0.2, 0.95), (0.95, 0.75), (1.3, 0.05), (1.12, -0.3), (0.75, 0.15), (0.2, 0.45), fill=SKY)
    pen.polygon((1.3, 0.05), (1.12, -0.3), (0.83, 0.05), fill=ROSE)
    pen.polygon((-0.3, 0.1), (0.3, 0.1), (0.62, 1.05), (-0.62, 1.05), fill=SKY)
    pen.polygon((-0.14, 0.2), (0.14, 0.2), (0.24, 0.85), (-0.24, 0.85), fill=SNOW)
    for side in (-1, 1):
        pen.polygon((side * 0.12, -0.68), (side * 0.62, -1.3), (side * 0.76, -0.4), fill=SKY)
        pen.polygon((side * 0.34, -0.72), (side * 0.56, -1.05), (side * 0.62, -0.6), fill=ROSE)
    pen.polygon((-0.8, -0.5), (-0.3, -0.85), (0.3, -0.85), (0.8, -0.5), (0.0, 0.3), fill=SKY)
    pen.polygon((-0.52, -0.22), (0.0, -0.42), (0.52, -0.22), (0.0, 0.3), fill=SNOW)
    for side in (-1, 1):
        pen.disc((side * 0.34, -0.46), 0.1, fill=COAL)
    pen.disc((0.0, 0.2), 0.13, fill=COAL)
    return _scaled_down(canvas)


def _scaled_down(canvas: Image.Image) -> Image.Image:
    return canvas.resize((canvas.width // OVERSAMPLING, canvas.height // OVERSAMPLING), Image.Resampling.BOX)


def _monster(background: str, rng: random.Random) -> Image.Image:
    return render_monster(background, width=SIDE, height=SIDE, rng=rng)


CONCEPTS = {
    concept.name: concept for concept in (Concept("monster", _monster), Concept("robot", _robot), Concept("fox", _fox))
}
