"""What tiny-flux is taught with: pictures of the world and of creatures, drawn and encoded."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor

from script.tiny_flux.creatures import Creature, any_creature, named_creature, render_creature
from script.tiny_flux.world import BACKGROUNDS, Scene, render, seen_scenes

ENCODED_AT_ONCE = 50


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded picture with what it shows."""

    latents: Tensor  # [16, H/8, W/8], scaled as the transformer knows them
    subject: Scene | Creature


def draw_pictures(
    vae: AutoencoderKL, count: int, *, width: int, height: int, creatures: float, rng: random.Random
) -> list[Picture]:
    """So many pictures of one size, a share `creatures` of which show no scene of the world but a creature."""
    subjects = [_any_subject(rng, creatures) for _ in range(count)]
    return encode_subjects(vae, subjects, width=width, height=height, rng=rng)


@torch.no_grad()
def encode_subjects(
    vae: AutoencoderKL, subjects: Sequence[Scene | Creature], *, width: int, height: int, rng: random.Random
) -> list[Picture]:
    """Draw each subject once and encode it."""
    pictures = []
    for start in range(0, len(subjects), ENCODED_AT_ONCE):
        part = subjects[start : start + ENCODED_AT_ONCE]
        images = [_draw(subject, width=width, height=height, rng=rng) for subject in part]
        pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2) / 127.5 - 1
        latents = (vae.encode(pixels).latent_dist.mean - vae.config.shift_factor) * vae.config.scaling_factor
        pictures += [Picture(*pair) for pair in zip(latents, part, strict=True)]
    return pictures


def _any_subject(rng: random.Random, creatures: float) -> Scene | Creature:
    if rng.random() >= creatures:
        return rng.choice(seen_scenes())
    make = named_creature if rng.random() < 0.5 else any_creature
    return make(rng.choice(list(BACKGROUNDS)), rng)


def _draw(subject: Scene | Creature, *, width: int, height: int, rng: random.Random) -> Image.Image:
    if isinstance(subject, Creature):
        return render_creature(subject, width=width, height=height, rng=rng)
    return render(subject, width=width, height=height, rng=rng)
