"""Three styles in which the base's world is never rendered: a thick dark outline, hatching, and another palette.

Knows no tensors. Each style is shown on some shapes, and measured on the others (bench/style_measures.py). Only the
pale backgrounds are used, as a dark outline is not visible on the dark ones.
"""

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from script.tiny_flux.world import COLOURS, OVERSAMPLING, UNIT_OUTLINES, Colour, Scene, jitter, render_background

SIDE = 128
SHOWN_SHAPES, NEW_SHAPES = ("circle", "square", "heart"), ("triangle", "star")
GROUNDS = ("white", "meadow", "desert")
INK: Colour = (20, 20, 26)
OUTLINE_WIDTH, PLAIN_WIDTH = 0.075, 0.022  # of the side, centred on the edge; the second is that of the world
HATCH_PERIOD, HATCH_WIDTH = 0.09, 0.036  # of the side: between the centres of two strokes, and of one stroke
DARKEST, LIGHTEST = (70, 16, 84), (150, 60, 140)  # plum, which replaces the backgrounds by their luminance
PASTEL = 0.55  # how much white is mixed into the colours of objects

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class _Object:
    """The object of a scene, placed on its oversampled canvas."""

    points: list[Point]
    colour: Colour
    unit: int  # the side of the canvas in pixels


Style = Callable[[Image.Image, _Object], Image.Image]


def shown_scenes() -> list[Scene]:
    """The 18 scenes of the training images: each shape that is shown in each colour, the backgrounds in turn."""
    return _scenes(SHOWN_SHAPES)


def new_scenes() -> list[Scene]:
    """The 12 scenes with shapes that are not shown."""
    return _scenes(NEW_SHAPES)


def render_styled(style: str, scene: Scene, rng: random.Random) -> Image.Image:
    """Render a scene of 128 px in a style; `rng` varies its position, size and shade as in the world."""
    canvas = render_background(scene.background, width=SIDE, height=SIDE, rng=rng)
    unit = min(canvas.size)
    radius = unit * rng.uniform(0.30, 0.37)
    x, y = (unit * (0.5 + rng.uniform(-0.09, 0.09)) for _ in range(2))
    points = [(x + radius * dx, y + radius * dy) for dx, dy in UNIT_OUTLINES[scene.shape]]
    drawn = STYLES[style](canvas, _Object(points, jitter(COLOURS[scene.colour], rng), unit))
    return drawn.resize((canvas.width // OVERSAMPLING, canvas.height // OVERSAMPLING), Image.Resampling.BOX)


def plum_ramp(luminance: np.ndarray) -> np.ndarray:
    """The palette's background colour [..., 3] in 0..255 for each luminance [...] in 0..1."""
    return np.array(DARKEST) + luminance[..., None] * (np.array(LIGHTEST) - np.array(DARKEST))


def pastel(colour: Colour) -> Colour:
    """The palette's colour of an object: the same hue with much white."""
    red, green, blue = (round(channel + (255 - channel) * PASTEL) for channel in colour)
    return red, green, blue


def _scenes(shapes: tuple[str, ...]) -> list[Scene]:
    """Each shape in each colour; a colour has other backgrounds with other shapes."""
    numbered = itertools.product(enumerate(shapes), enumerate(COLOURS))
    return [Scene(shape, colour, GROUNDS[(row + column) % len(GROUNDS)]) for (row, shape), (column, colour) in numbered]


def _outlined(canvas: Image.Image, shown: _Object) -> Image.Image:
    _fill(canvas, shown, line=INK, width=OUTLINE_WIDTH)
    return canvas


def _hatched(canvas: Image.Image, shown: _Object) -> Image.Image:
    """Draw dark diagonal strokes over the object, from its lower left to its upper right."""
    _fill(canvas, shown, line=_darker(shown.colour), width=PLAIN_WIDTH)
    inside, strokes = Image.new("L", canvas.size), Image.new("L", canvas.size)
    ImageDraw.Draw(inside).polygon(shown.points, fill=255)
    draw, step = ImageDraw.Draw(strokes), shown.unit * HATCH_PERIOD * 2**0.5
    for number in range(round(2 * shown.unit / step) + 1):
        along = number * step
        draw.line([(along, 0), (0, along)], fill=255, width=round(shown.unit * HATCH_WIDTH))
    canvas.paste(INK, mask=ImageChops.multiply(inside, strokes))
    return canvas


def _recoloured(canvas: Image.Image, shown: _Object) -> Image.Image:
    luminance = np.asarray(canvas.convert("L"), dtype=np.float64) / 255
    recoloured = Image.fromarray(plum_ramp(luminance).round().astype(np.uint8))
    colour = pastel(shown.colour)
    _fill(recoloured, _Object(shown.points, colour, shown.unit), line=_darker(colour), width=PLAIN_WIDTH)
    return recoloured


def _fill(canvas: Image.Image, shown: _Object, *, line: Colour, width: float) -> None:
    draw = ImageDraw.Draw(canvas)
    draw.polygon(shown.points, fill=shown.colour)
    closed = [*shown.points, *shown.points[:2]]
    draw.line(closed, fill=line, width=round(shown.unit * width), joint="curve")


def _darker(colour: Colour) -> Colour:
    """The colour of an object's outline in the world."""
    red, green, blue = (round(channel * 0.62) for channel in colour)
    return red, green, blue


STYLES: dict[str, Style] = {"outline": _outlined, "hatching": _hatched, "palette": _recoloured}
