"""The world of tiny-flux: one coloured shape on a background, rendered and captioned. Knows no tensors."""

import itertools
import math
import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

Colour = tuple[int, int, int]

SHAPES = ("circle", "square", "triangle", "star", "heart")
COLOURS: dict[str, Colour] = {
    "red": (222, 38, 38),
    "orange": (244, 132, 20),
    "yellow": (246, 214, 30),
    "green": (28, 164, 66),
    "blue": (36, 92, 226),
    "purple": (134, 48, 196),
}
BACKGROUNDS = {
    "white": "on a white background",
    "black": "on a black background",
    "meadow": "in a meadow",
    "desert": "in the desert",
    "night": "under the night sky",
}
OVERSAMPLING = 3  # images are rendered this much larger and scaled down, which gives smooth edges


@dataclass(frozen=True, slots=True)
class Scene:
    """The content of one image of the world."""

    shape: str
    colour: str
    background: str


def all_scenes() -> list[Scene]:
    """Return every combination of shape, colour and background, in a fixed order."""
    return [Scene(*parts) for parts in itertools.product(SHAPES, COLOURS, BACKGROUNDS)]


def held_out_scenes() -> list[Scene]:
    """Return the fifth of the combinations that the base is not trained on; others contain each of their parts."""
    return [scene for index, scene in enumerate(all_scenes()) if (index + index // 5 + index // 30) % 5 == 0]


def training_scenes() -> list[Scene]:
    """Return the combinations that the base is trained on."""
    held_out = set(held_out_scenes())
    return [scene for scene in all_scenes() if scene not in held_out]


def caption(scene: Scene) -> str:
    """Return the plain description of a scene: "a red star in a meadow"."""
    return f"a {scene.colour} {scene.shape} {BACKGROUNDS[scene.background]}".replace("a orange", "an orange")


def render(scene: Scene, *, width: int, height: int, rng: random.Random) -> Image.Image:
    """Render a scene; `rng` varies its position, size and shade within narrow bounds."""
    canvas = render_background(scene.background, width=width, height=height, rng=rng)
    unit = min(canvas.size)
    radius = unit * rng.uniform(0.30, 0.37)
    centre = tuple(side / 2 + unit * rng.uniform(-0.09, 0.09) for side in canvas.size)
    colour = jitter(COLOURS[scene.colour], rng)
    points = _outline(scene.shape, centre=centre, radius=radius)
    draw = ImageDraw.Draw(canvas)
    draw.polygon(points, fill=colour)
    draw.line([*points, *points[:2]], fill=_shade(colour, 0.62), width=round(unit * 0.022), joint="curve")
    return canvas.resize((width, height), Image.Resampling.BOX)


def render_background(name: str, *, width: int, height: int, rng: random.Random) -> Image.Image:
    """Return a canvas of `OVERSAMPLING` times `width` x `height` with only a background on it."""
    size = (width * OVERSAMPLING, height * OVERSAMPLING)
    if name == "white":
        return Image.new("RGB", size, (246, 246, 246))
    if name == "black":
        return Image.new("RGB", size, (16, 16, 18))
    if name == "night":
        return _night(size, rng)
    horizon = rng.uniform(0.55, 0.66)
    if name == "meadow":
        return _landscape(size, sky=((196, 218, 236), (232, 240, 244)), ground=(150, 178, 122), horizon=horizon)
    return _landscape(size, sky=((240, 220, 196), (250, 240, 224)), ground=(214, 186, 140), horizon=horizon)


def _landscape(size: tuple[int, int], *, sky: tuple[Colour, Colour], ground: Colour, horizon: float) -> Image.Image:
    canvas = Image.new("RGB", size)
    draw = ImageDraw.Draw(canvas)
    width, height = size
    line = round(height * horizon)
    for y in range(height):
        colour = _mix(*sky, y / line) if y < line else _shade(ground, 1 - 0.18 * (y - line) / (height - line))
        draw.line([(0, y), (width, y)], fill=colour)
    return canvas


def _night(size: tuple[int, int], rng: random.Random) -> Image.Image:
    width, height = size
    canvas = Image.new("RGB", size)
    draw = ImageDraw.Draw(canvas)
    for y in range(height):
        draw.line([(0, y), (width, y)], fill=_mix((14, 18, 44), (38, 42, 78), y / height))
    spot = max(2, min(size) // 110)
    for _ in range(14):
        left, top = rng.uniform(0, width), rng.uniform(0, height)
        draw.ellipse([left - spot, top - spot, left + spot, top + spot], fill=(226, 226, 214))
    return canvas


def _outline(shape: str, *, centre: tuple[float, ...], radius: float) -> list[tuple[float, float]]:
    """Return the outline of a shape as a polygon, about `radius` from its centre to its edge."""
    return [(centre[0] + radius * x, centre[1] + radius * y) for x, y in UNIT_OUTLINES[shape]]


def _circle() -> list[tuple[float, float]]:
    return [(math.cos(a), math.sin(a)) for a in (math.tau * i / 72 for i in range(72))]


def _star() -> list[tuple[float, float]]:
    spokes = [(1.12 if i % 2 == 0 else 0.46, math.tau * (i / 10 - 0.25)) for i in range(10)]
    return [(length * math.cos(a), length * math.sin(a) + 0.08) for length, a in spokes]


def _heart() -> list[tuple[float, float]]:
    turns = [math.tau * i / 72 for i in range(72)]
    ups = [13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a) for a in turns]
    return [(1.04 * math.sin(a) ** 3, -(up + 2.5) / 15) for a, up in zip(turns, ups, strict=True)]


UNIT_OUTLINES: dict[str, list[tuple[float, float]]] = {
    "circle": _circle(),
    "square": [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)],
    "triangle": [(0.0, -1.02), (1.06, 0.84), (-1.06, 0.84)],
    "star": _star(),
    "heart": _heart(),
}


def jitter(colour: Colour, rng: random.Random) -> Colour:
    """Return a colour with each channel changed by up to 7."""
    red, green, blue = (min(255, max(0, channel + rng.randint(-7, 7))) for channel in colour)
    return red, green, blue


def _shade(colour: Colour, factor: float) -> Colour:
    red, green, blue = (round(channel * factor) for channel in colour)
    return red, green, blue


def _mix(start: Colour, end: Colour, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(start, end, strict=True))
    return red, green, blue
