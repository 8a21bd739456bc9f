"""How much of a picture does the autoencoder carry? Decibels on pictures that it never saw."""

import math
import random
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL
from PIL import Image

from script.tiny_flux.autoencoder_pool import SIDE, normalized, pixels_of
from script.tiny_flux.described_monster import any_monster, render_described
from script.tiny_flux.monster import monster_scenes
from script.tiny_flux.world import BACKGROUNDS, held_out_scenes, render

SEED = 99  # of no picture that is trained on
PEAK = 2.0  # from -1 to 1


@dataclass(frozen=True, slots=True)
class Fidelity:
    """The mean peak signal-to-noise ratio in decibels, by what the pictures show."""

    demo_monster: float  # its colours are in no picture of the training
    monsters: float
    world: float

    def __str__(self) -> str:
        return (
            f"{self.demo_monster:.1f} dB on the demo's monster, {self.monsters:.1f} on described monsters, "
            f"{self.world:.1f} on held-out scenes"
        )


def fidelity(vae: AutoencoderKL, *, pictures: int) -> Fidelity:
    """So many pictures of each kind, encoded and decoded."""
    rng = random.Random(SEED)
    places = [list(BACKGROUNDS)[index % len(BACKGROUNDS)] for index in range(pictures)]
    described = [render_described(any_monster(place, rng), width=SIDE, height=SIDE, rng=rng) for place in places]
    scenes = [render(scene, width=SIDE, height=SIDE, rng=rng) for scene in rng.sample(held_out_scenes(), pictures)]
    return Fidelity(
        demo_monster=_decibels(vae, [image for _, image in monster_scenes(pictures, seed=SEED)]),
        monsters=_decibels(vae, described),
        world=_decibels(vae, scenes),
    )


@torch.no_grad()
def _decibels(vae: AutoencoderKL, pictures: list[Image.Image]) -> float:
    """The mean over pictures of one size."""
    ratios = []
    for part in torch.stack([pixels_of(picture) for picture in pictures]).split(8):
        pixels = normalized(part).to(vae.device)
        restored = vae.decode(vae.encode(pixels).latent_dist.mean).sample.clamp(-1, 1)
        ratios += [_ratio(error) for error in (restored - pixels).square().mean(dim=(1, 2, 3)).tolist()]
    return sum(ratios) / len(ratios)


def _ratio(squared_error: float) -> float:
    return 10 * math.log10(PEAK**2 / squared_error)
