"""How much has a LoRA learned, and what has it cost? Losses at fixed noise and sigmas on pictures it never saw."""

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from PIL import Image
from torch import Tensor

from lora.dataset.crops import Crop, crop_box, crops_of
from lora.dataset.encoding import Example
from lora.dataset.latents import encode_pixels
from lora.flux.prompt import Prompt, encode_prompt
from lora.images.size import Size, fit
from lora.training.learning.batches import Batch
from lora.training.learning.losses import loss_at
from script.tiny_flux.captions import TRIGGER
from script.tiny_flux.monster import monster_caption, monster_scenes
from script.tiny_flux.world import all_scenes, caption, render

SIGMAS = (0.1, 0.3, 0.5, 0.7, 0.9)
NOISE_SEED = 1234
HELD_OUT_SEED, WORLD_SEED = 99, 98  # monster.zip is drawn with another one


@dataclass(frozen=True, slots=True)
class Losses:
    """The loss on each picture, the mean over `SIGMAS`, in a fixed order."""

    by_picture: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over all pictures."""
        return sum(self.by_picture) / len(self.by_picture)

    def fall_to(self, later: "Losses") -> tuple[float, float]:
        """The mean fall from these losses to later ones, and its standard error, paired by picture."""
        falls = torch.tensor([a - b for a, b in zip(self.by_picture, later.by_picture, strict=True)])
        return falls.mean().item(), falls.std().item() / math.sqrt(len(falls))


def monsters(encoders: FluxPipeline, *, count: int = 15) -> list[Example]:
    """Encoded pictures of the monster that are not in the zip, captioned as the zip's are."""
    scenes = monster_scenes(count, seed=HELD_OUT_SEED)
    return encoded(encoders, ((image, monster_caption(name, trigger=TRIGGER)) for name, image in scenes))


def world(encoders: FluxPipeline, *, count: int = 30) -> list[Example]:
    """Encoded pictures of the base's own world, captioned as it was taught."""
    rng = random.Random(WORLD_SEED)
    scenes = rng.sample(all_scenes(), count)
    return encoded(encoders, ((render(scene, width=128, height=128, rng=rng), caption(scene)) for scene in scenes))


@torch.no_grad()
def encoded(encoders: FluxPipeline, pictures: Iterable[tuple[Image.Image, str]], *, crops: int = 1) -> list[Example]:
    """Pictures and their captions as training would see them, in so many crops each."""
    return [
        Example(_latents(encoders, image, crop, content=str(place)), encode_prompt(encoders, text), content=str(place))
        for place, (image, text) in enumerate(pictures)
        for crop in crops_of([Size(*image.size)], count=crops)
    ]


def _latents(encoders: FluxPipeline, image: Image.Image, crop: Crop, *, content: str) -> Tensor:
    box = crop_box((0.0, 0.0, float(image.width), float(image.height)), crop, content=content)
    return encode_pixels(encoders.vae, np.asarray(fit(image, crop.size, box))[None])[0]


@torch.no_grad()
def losses(transformer: FluxTransformer2DModel, examples: list[Example]) -> Losses:
    """The same noise and sigmas at every call, so that two calls differ by the weights alone."""
    generator = torch.Generator().manual_seed(NOISE_SEED)
    return Losses(tuple(_loss(transformer, example, generator) for example in examples))


def _loss(transformer: FluxTransformer2DModel, example: Example, generator: torch.Generator) -> float:
    count = len(SIGMAS)
    noise = torch.randn(count, *example.latents.shape, generator=generator)
    latents = example.latents.expand(count, *example.latents.shape)
    batch = Batch(latents, Prompt.stack([example.prompt] * count))
    return loss_at(transformer, batch, noise=noise, sigmas=torch.tensor(SIGMAS)).item()
