"""What an image of the benchmark of masks may show around its subject, instead of the room that it was taken in."""

import random
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from script.tiny_flux.world import BACKGROUNDS, render_background

ROOM = "desert"
COLORS = 4  # of an image, each in an image of its own
BLUR = 1 / 8  # of the side

Surroundings = Callable[[Image.Image, Image.Image, random.Random], Iterator[Image.Image]]  # of an image and its mask


def room(image: Image.Image, _mask: Image.Image, _rng: random.Random) -> Iterator[Image.Image]:
    """The room, as it was taken."""
    yield image


def flat_colors(image: Image.Image, mask: Image.Image, rng: random.Random) -> Iterator[Image.Image]:
    """Random colors, each in an image of its own."""
    for _ in range(COLORS):
        red, green, blue = (rng.randrange(256) for _ in range(3))
        yield Image.composite(image, Image.new("RGB", image.size, (red, green, blue)), mask)


def other_grounds(image: Image.Image, mask: Image.Image, rng: random.Random) -> Iterator[Image.Image]:
    """Every ground that the base knows but the room, each in an image of its own."""
    width, height = image.size
    for ground in BACKGROUNDS:
        if ground != ROOM:
            other = render_background(ground, width=width, height=height, rng=rng)
            yield Image.composite(image, other.resize(image.size, Image.Resampling.BOX), mask)


def blurred_room(image: Image.Image, mask: Image.Image, _rng: random.Random) -> Iterator[Image.Image]:
    """The room without the subject, blurred."""
    blur, outside = ImageFilter.GaussianBlur(image.width * BLUR), ImageChops.invert(mask)
    weighted = np.asarray(Image.composite(image, Image.new("RGB", image.size), outside).filter(blur), dtype=float)
    weights = np.asarray(outside.filter(blur), dtype=float)[..., None] / 255
    blurred = Image.fromarray((weighted / np.maximum(weights, 1 / 255)).clip(0, 255).astype(np.uint8))
    yield Image.composite(image, blurred, mask)
