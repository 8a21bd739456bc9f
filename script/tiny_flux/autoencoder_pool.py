"""The training images of the autoencoder: the world, monsters, creatures and clutter. Knows no networks."""

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor

from script.tiny_flux.creatures import any_creature, render_creature
from script.tiny_flux.described_monster import any_monster, render_described
from script.tiny_flux.world import BACKGROUNDS, render, training_scenes

SIDE = 128


@dataclass(frozen=True, slots=True)
class Crops:
    """A kind of batch: `count` square crops of `side` pixels."""

    side: int
    count: int


def render_pool(count: int, *, seed: int) -> Tensor:
    """Return images uint8 [N, 3, 128, 128]: 25 % world, 25 % monsters, 20 % creatures, 30 % clutter."""
    rng = random.Random(seed)
    kinds: list[Callable[[random.Random], Image.Image]] = [_world, _monster, _creature, _clutter]
    chosen = rng.choices(kinds, weights=(25, 25, 20, 30), k=count)
    return torch.stack([pixels_of(render_kind(rng)) for render_kind in chosen])


def random_crops(pool: Tensor, crops: Crops, *, generator: torch.Generator) -> Tensor:
    """Return crops [N, 3, side, side] in -1..1 of random images.

    Half of the batches are mirrored, and three in ten have their channels permuted, so that the autoencoder
    reconstructs shapes and colours that it is not trained on.
    """
    picked = pool[torch.randint(len(pool), (crops.count,), generator=generator)]
    top, left = (int(torch.randint(SIDE - crops.side + 1, (), generator=generator)) for _ in range(2))
    pixels = normalized(picked[:, :, top : top + crops.side, left : left + crops.side])
    if torch.rand((), generator=generator) < 0.5:
        pixels = pixels.flip(-1)
    if torch.rand((), generator=generator) < 0.3:
        pixels = pixels[:, torch.randperm(3, generator=generator)]
    return pixels.contiguous()


def pixels_of(image: Image.Image) -> Tensor:
    """Return the pixels of an image, uint8 [3, H, W]."""
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


def normalized(pixels: Tensor) -> Tensor:
    """Return pixels of 0..255 as floats of -1..1."""
    return pixels.float() / 127.5 - 1.0


def _world(rng: random.Random) -> Image.Image:
    return render(rng.choice(training_scenes()), width=SIDE, height=SIDE, rng=rng)


def _monster(rng: random.Random) -> Image.Image:
    return render_described(any_monster(rng.choice(list(BACKGROUNDS)), rng), width=SIDE, height=SIDE, rng=rng)


def _creature(rng: random.Random) -> Image.Image:
    return render_creature(any_creature(rng.choice(list(BACKGROUNDS)), rng), width=SIDE, height=SIDE, rng=rng)


def _clutter(rng: random.Random) -> Image.Image:
    """Render random ellipses and polygons in random colours, sometimes blurred."""
    canvas = Image.new("RGB", (SIDE * 2, SIDE * 2), _any_colour(rng))
    draw = ImageDraw.Draw(canvas)
    for _ in range(rng.randint(2, 14)):
        x, y, size = rng.uniform(0, SIDE * 2), rng.uniform(0, SIDE * 2), rng.uniform(4, SIDE * 0.8)
        if rng.random() < 0.45:
            draw.ellipse([x - size, y - size * rng.uniform(0.4, 1), x + size, y + size * 0.8], fill=_any_colour(rng))
        else:
            corners = [(x + rng.uniform(-size, size), y + rng.uniform(-size, size)) for _ in range(rng.randint(3, 7))]
            draw.polygon(corners, fill=_any_colour(rng))
    if rng.random() < 0.3:
        canvas = canvas.filter(ImageFilter.GaussianBlur(rng.uniform(1, 6)))
    return canvas.resize((SIDE, SIDE), Image.Resampling.BOX)


def _any_colour(rng: random.Random) -> tuple[int, int, int]:
    return rng.randint(0, 255), rng.randint(0, 255), rng.randint(0, 255)
