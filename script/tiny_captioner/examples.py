"""Pictures of the embedded world with the captions that the captioner learns. Knows no tensors."""

import math
import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

from script.tiny_captioner.figures import Outline, any_other_outline, turned
from script.tiny_flux.creatures import Creature, any_creature, new_colour, render_creature
from script.tiny_flux.described_monster import any_monster, render_described
from script.tiny_flux.world import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    UNIT_OUTLINES,
    Colour,
    Scene,
    caption,
    jitter,
    render,
    render_background,
    training_scenes,
)

CREATURE, NOTHING, UNNAMED = "creature", "", ""
FIGURES = (*SHAPES, CREATURE, NOTHING)
COLOUR_NAMES = (*COLOURS, UNNAMED)
PLACES = tuple(BACKGROUNDS)
# RGB distances: of a colour without a name from those with one, and of a figure from the backgrounds
FROM_NAMED, FROM_BACKGROUND = 90.0, 70.0
GROUNDS: dict[str, tuple[Colour, ...]] = {
    "white": ((246, 246, 246),),
    "black": ((16, 16, 18),),
    "meadow": ((214, 229, 240), (150, 178, 122), (123, 146, 100)),
    "desert": ((245, 230, 210), (214, 186, 140), (175, 152, 115)),
    "night": ((14, 18, 44), (38, 42, 78)),
}
# Sides in pixels. Most pictures have the side that the captioner sees, which is the fastest; others are scaled to it.
SIDES = ((64, 64),) * 6 + ((128, 128), (96, 96), (72, 56), (56, 72))
# Shares of the pictures: of shapes in colours with a name, of shapes in others, of creatures; the rest are empty places
SCENES, WITHOUT_COLOUR, CREATURES = 0.62, 0.06, 0.29
# Shares of the creatures: described monsters and figures of several parts; the rest are single outlines
MONSTERS, OF_PARTS = 0.4, 0.2
AS_IN_THE_WORLD = 0.6  # share of the shapes that are rendered as the world does; the bounds of the others are wider
IN_NAMED_COLOURS, WITH_LINES, SHARP = 0.6, 0.6, 0.75  # shares of single outlines, of drawn figures, of all pictures


@dataclass(frozen=True, slots=True)
class Content:
    """What a picture shows, in words: a shape, "creature" or nothing; a shape's colour if it has a name; a place."""

    figure: str
    colour: str
    background: str


@dataclass(frozen=True, slots=True)
class Example:
    """A picture and what it shows."""

    image: Image.Image
    content: Content


def words_for(content: Content) -> str:
    """Return the caption: "a red star in a meadow", without the colour if it has no name; "a creature in a meadow" for
    other figures; "a meadow" for a place without a figure."""
    place = BACKGROUNDS[content.background]
    if content.figure == NOTHING:
        return place.partition(" ")[2]
    if content.colour == UNNAMED:
        return f"a {content.figure} {place}"
    return caption(Scene(content.figure, content.colour, content.background))


def any_example(rng: random.Random) -> Example:
    """Return a random picture. Its combination of shape, colour and place is one that the base is trained on, too."""
    chance = rng.random()
    size = rng.choice(SIDES)
    if chance < SCENES:
        example = _scene(rng, size)
    elif chance < SCENES + WITHOUT_COLOUR:
        example = _shape_without_colour(rng, size)
    elif chance < SCENES + WITHOUT_COLOUR + CREATURES:
        example = _creature(rng, size)
    else:
        background = rng.choice(PLACES)
        canvas = render_background(background, width=size[0], height=size[1], rng=rng)
        example = Example(canvas.resize(size, Image.Resampling.BOX), Content(NOTHING, UNNAMED, background))
    return Example(_sometimes_blurred(example.image, rng), example.content)


def _scene(rng: random.Random, size: tuple[int, int]) -> Example:
    scene = rng.choice(training_scenes())
    content = Content(scene.shape, scene.colour, scene.background)
    if rng.random() < AS_IN_THE_WORLD:
        return Example(render(scene, width=size[0], height=size[1], rng=rng), content)
    colour = jitter(COLOURS[scene.colour], rng)
    return Example(drawn(_upright(scene.shape, rng), colour, scene.background, size, rng), content)


def _shape_without_colour(rng: random.Random, size: tuple[int, int]) -> Example:
    shape, background = rng.choice(SHAPES), rng.choice(PLACES)
    image = drawn(_upright(shape, rng), _unnamed_colour(background, rng), background, size, rng)
    return Example(image, Content(shape, UNNAMED, background))


def _creature(rng: random.Random, size: tuple[int, int]) -> Example:
    """A described monster, a figure of several parts or an outline that is none of the world's."""
    background, chance = rng.choice(PLACES), rng.random()
    content = Content(CREATURE, UNNAMED, background)
    width, height = size
    if chance < MONSTERS:
        return Example(render_described(any_monster(background, rng), width=width, height=height, rng=rng), content)
    if chance < MONSTERS + OF_PARTS:
        return Example(render_creature(_several_parts(background, rng), width=width, height=height, rng=rng), content)
    is_named = rng.random() < IN_NAMED_COLOURS
    colour = jitter(rng.choice(list(COLOURS.values())), rng) if is_named else _unnamed_colour(background, rng)
    return Example(drawn(any_other_outline(rng), colour, background, size, rng), content)


def _several_parts(background: str, rng: random.Random) -> Creature:
    """A creature that is more than a disc or a polygon, which could be one of the world's shapes."""
    while True:
        creature = any_creature(background, rng)
        if len(creature.parts) > 1:
            return creature


def _upright(shape: str, rng: random.Random) -> Outline:
    """The outline of a shape, turned a little."""
    return turned(UNIT_OUTLINES[shape], rng.uniform(-0.15, 0.15))


def _unnamed_colour(background: str, rng: random.Random) -> Colour:
    while True:
        colour = new_colour(rng)
        named = min(math.dist(colour, other) for other in COLOURS.values())
        if named > FROM_NAMED and min(math.dist(colour, other) for other in GROUNDS[background]) > FROM_BACKGROUND:
            return colour


def drawn(outline: Outline, colour: Colour, background: str, size: tuple[int, int], rng: random.Random) -> Image.Image:
    """Return an image of a figure within wider bounds than the world's, with or without a darker line around it."""
    canvas = render_background(background, width=size[0], height=size[1], rng=rng)
    unit = min(canvas.size)
    radius = unit * rng.uniform(0.24, 0.40)
    x, y = (side / 2 + unit * rng.uniform(-0.12, 0.12) for side in canvas.size)
    points = [(x + radius * px, y + radius * py) for px, py in outline]
    draw = ImageDraw.Draw(canvas)
    draw.polygon(points, fill=colour)
    if rng.random() < WITH_LINES:
        red, green, blue = (round(0.62 * channel) for channel in colour)
        draw.line([*points, *points[:2]], fill=(red, green, blue), width=round(unit * 0.022), joint="curve")
    return canvas.resize(size, Image.Resampling.BOX)


def _sometimes_blurred(image: Image.Image, rng: random.Random) -> Image.Image:
    """The picture as it is, or a little blurred, as generated pictures are."""
    if rng.random() < SHARP:
        return image
    share = rng.uniform(0.4, 0.9)
    small = image.resize((round(image.width * share), round(image.height * share)), Image.Resampling.BILINEAR)
    return small.resize(image.size, Image.Resampling.BICUBIC)
