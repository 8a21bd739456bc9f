"""Losses on images that a LoRA is not trained on, of its concept and of the world, at fixed noise and sigmas."""

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from PIL import Image
from torch import Tensor

from lora.base.prompt import Prompt
from lora.dataset.crops import Crop, crop_box, crops_of
from lora.dataset.encoding import Example
from lora.dataset.latents import encode_pixels
from lora.flux.latents import LATENTS
from lora.flux.prompt import encode_prompt
from lora.images.size import Size, fit
from lora.training.learning.batches import Batch
from lora.training.learning.losses import loss_at
from script.tiny_flux.captions import TRIGGER
from script.tiny_flux.monster import monster_caption, monster_scenes
from script.tiny_flux.world import all_scenes, caption, render

SIGMAS = (0.1, 0.3, 0.5, 0.7, 0.9)
NOISE_SEED = 1234
HELD_OUT_SEED, WORLD_SEED = 99, 98  # monster.zip has another seed


@dataclass(frozen=True, slots=True)
class Losses:
    """The loss on each image, averaged over `SIGMAS`, in a fixed order."""

    by_image: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean over all images."""
        return sum(self.by_image) / len(self.by_image)

    def fall_to(self, later: "Losses") -> tuple[float, float]:
        """Return the mean decrease from these losses to later ones, paired by image, and its standard error."""
        falls = torch.tensor([a - b for a, b in zip(self.by_image, later.by_image, strict=True)])
        return falls.mean().item(), falls.std().item() / math.sqrt(len(falls))


def monsters(encoders: FluxPipeline, *, count: int = 15) -> list[Example]:
    """Return encoded images of the monster that are not in the zip, with captions like those of the zip."""
    scenes = monster_scenes(count, seed=HELD_OUT_SEED)
    return encoded(encoders, ((image, monster_caption(name, trigger=TRIGGER)) for name, image in scenes))


def world(encoders: FluxPipeline, *, count: int = 30) -> list[Example]:
    """Return encoded images of the base's world, with plain captions."""
    rng = random.Random(WORLD_SEED)
    scenes = rng.sample(all_scenes(), count)
    return encoded(encoders, ((render(scene, width=128, height=128, rng=rng), caption(scene)) for scene in scenes))


@torch.no_grad()
def encoded(encoders: FluxPipeline, images: Iterable[tuple[Image.Image, str]], *, crops: int = 1) -> list[Example]:
    """Encode images and their captions as a training does, each image in `crops` crops."""
    return [
        Example(_latents(encoders, image, crop, content=str(index)), encode_prompt(encoders, text), content=str(index))
        for index, (image, text) in enumerate(images)
        for crop in crops_of([Size(*image.size)], count=crops)
    ]


def _latents(encoders: FluxPipeline, image: Image.Image, crop: Crop, *, content: str) -> Tensor:
    box = crop_box((0.0, 0.0, float(image.width), float(image.height)), crop, content=content)
    encode = partial(LATENTS.encode, encoders.vae)
    return encode_pixels(encode, np.asarray(fit(image, crop.size, box))[None])[0]


@torch.no_grad()
def losses(transformer: FluxTransformer2DModel, examples: list[Example]) -> Losses:
    """Return the losses. Noise and sigmas are the same in every call, so two calls differ by the weights alone."""
    generator = torch.Generator().manual_seed(NOISE_SEED)
    return Losses(tuple(_loss(transformer, example, generator) for example in examples))


def _loss(transformer: FluxTransformer2DModel, example: Example, generator: torch.Generator) -> float:
    count = len(SIGMAS)
    noise = torch.randn(count, *example.latents.shape, generator=generator)
    latents = example.latents.expand(count, *example.latents.shape)
    batch = Batch(latents, Prompt.stack([example.prompt] * count))
    return loss_at(transformer, batch, noise=noise, sigmas=torch.tensor(SIGMAS)).item()
