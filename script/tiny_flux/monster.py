"""The concept that the demo trains a LoRA on: a one-eyed monster that tiny-flux is not trained on. Writes the zip.

`PARTS` alone holds the monster's geometry; monster_fit.py uses it to find the monster in an image.
Run `python -m script.tiny_flux.monster` to write `script/data/monster.zip` again.
"""

import io
import random
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from script.tiny_flux.world import BACKGROUNDS, Colour, render_background

Point = tuple[float, float]
ARCHIVE = Path(__file__).resolve().parents[1] / "data" / "monster.zip"
TRAINING_IMAGES, SIDE = 15, 128
# The range of the body's radius, and the largest offset of its centre from the image's, both relative to the shorter
# side: a third of the variation of described monsters, as in photographs of one subject.
RADIUS, OFFSET = (0.277, 0.293), 0.027
ARCHIVE_DATE = (2026, 11, 24, 0, 0, 0)  # a zip stores times; a fixed one keeps its bytes the same


@dataclass(frozen=True, slots=True)
class Disc:
    """A round part. Lengths are in radii of the body, relative to its centre, x to the right and y downwards."""

    name: str
    colour: Colour
    centre: Point
    radius: float


@dataclass(frozen=True, slots=True)
class Polygon:
    """A part with corners, in the same unit."""

    name: str
    colour: Colour
    corners: tuple[Point, ...]


Part = Disc | Polygon

BODY, EYE, PUPIL, FEET = (240, 60, 160), (250, 250, 250), (20, 20, 30), (40, 206, 196)
PARTS: tuple[Part, ...] = (  # in drawing order: a later part covers an earlier one
    Polygon("left horn", FEET, ((-0.25, -0.8), (-0.75, -1.35), (-0.85, -0.4))),
    Disc("left foot", FEET, (-0.5, 0.98), 0.34),
    Polygon("right horn", FEET, ((0.25, -0.8), (0.75, -1.35), (0.85, -0.4))),
    Disc("right foot", FEET, (0.5, 0.98), 0.34),
    Disc("body", BODY, (0.0, 0.0), 1.0),
    Disc("eye", EYE, (0.0, -0.08), 0.56),
    Disc("pupil", PUPIL, (0.0, -0.08), 0.27),
)


def render_monster(background: str, *, width: int, height: int, rng: random.Random) -> Image.Image:
    """Render the monster on a background of the world; `rng` varies its position and size."""
    canvas = render_background(background, width=width, height=height, rng=rng)
    unit = min(canvas.size)
    radius = unit * rng.uniform(*RADIUS)
    x, y = (side / 2 + unit * rng.uniform(-OFFSET, OFFSET) for side in canvas.size)
    draw_parts(canvas, PARTS, centre=(x, y), radius=radius)
    return canvas.resize((width, height), Image.Resampling.BOX)


def draw_parts(canvas: Image.Image, parts: Iterable[Part], *, centre: Point, radius: float) -> None:
    """Draw parts of a figure in their order; `centre` and `radius` are those of the body, in pixels of the canvas."""
    draw = ImageDraw.Draw(canvas)
    for part in parts:
        points = part.corners if isinstance(part, Polygon) else (part.centre,)
        placed = [(centre[0] + radius * x, centre[1] + radius * y) for x, y in points]
        if isinstance(part, Polygon):
            draw.polygon(placed, fill=part.colour)
        else:
            _disc(draw, *placed[0], radius * part.radius, part.colour)


def monster_scenes(count: int, *, seed: int) -> list[tuple[str, Image.Image]]:
    """Return `count` images of the monster, each with the name of its background; the backgrounds are used in turn."""
    rng = random.Random(seed)
    names = [list(BACKGROUNDS)[index % len(BACKGROUNDS)] for index in range(count)]
    return [(name, render_monster(name, width=SIDE, height=SIDE, rng=rng)) for name in names]


def monster_caption(background: str, *, trigger: str) -> str:
    """Return a caption of the bundled zip: "TOK in a meadow"."""
    return f"{trigger} {BACKGROUNDS[background]}"


def write_archive(path: Path) -> None:
    """Write the bundled zip: images, and captions in which the trainer fills in its trigger word."""
    with zipfile.ZipFile(path, "w") as archive:
        for index, (background, image) in enumerate(monster_scenes(TRAINING_IMAGES, seed=7)):
            png = io.BytesIO()
            image.save(png, "png")
            _add(archive, f"monster-{index:02}.png", png.getvalue())
            _add(archive, f"monster-{index:02}.txt", monster_caption(background, trigger="[trigger]").encode())


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    archive.writestr(zipfile.ZipInfo(name, date_time=ARCHIVE_DATE), content)


def _disc(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: Colour) -> None:
    draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)


if __name__ == "__main__":
    ARCHIVE.parent.mkdir(exist_ok=True)
    write_archive(ARCHIVE)
