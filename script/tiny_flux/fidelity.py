"""The reconstruction quality of the autoencoder, in decibels, on images that it is not trained on."""

import math
import random
from dataclasses import dataclass

import torch
from PIL import Image

from script.tiny_flux.autoencoder_pool import SIDE, normalized, pixels_of
from script.tiny_flux.described_monster import any_monster, render_described
from script.tiny_flux.latents import Autoencoder
from script.tiny_flux.monster import monster_scenes
from script.tiny_flux.world import BACKGROUNDS, held_out_scenes, render

SEED = 99  # different from the seeds of training images
PEAK = 2.0  # the range of pixels, -1 to 1


@dataclass(frozen=True, slots=True)
class Fidelity:
    """The mean peak signal-to-noise ratio in decibels, by the content of the images."""

    demo_monster: float  # no training image has its colours
    monsters: float
    world: float

    def __str__(self) -> str:
        return (
            f"{self.demo_monster:.1f} dB on the demo's monster, {self.monsters:.1f} on described monsters, "
            f"{self.world:.1f} on held-out scenes"
        )


def fidelity(vae: Autoencoder, *, images: int) -> Fidelity:
    """Encode and decode `images` images of each kind, and return their quality."""
    rng = random.Random(SEED)
    names = [list(BACKGROUNDS)[index % len(BACKGROUNDS)] for index in range(images)]
    described = [render_described(any_monster(name, rng), width=SIDE, height=SIDE, rng=rng) for name in names]
    scenes = [render(scene, width=SIDE, height=SIDE, rng=rng) for scene in rng.sample(held_out_scenes(), images)]
    return Fidelity(
        demo_monster=_decibels(vae, [image for _, image in monster_scenes(images, seed=SEED)]),
        monsters=_decibels(vae, described),
        world=_decibels(vae, scenes),
    )


@torch.no_grad()
def _decibels(vae: Autoencoder, images: list[Image.Image]) -> float:
    """Return the mean over images of one size."""
    ratios = []
    for part in torch.stack([pixels_of(image) for image in images]).split(8):
        pixels = normalized(part).to(vae.device)
        restored = vae.decode(vae.encode(pixels).latent_dist.mean).sample.clamp(-1, 1)
        ratios += [_ratio(error) for error in (restored - pixels).square().mean(dim=(1, 2, 3)).tolist()]
    return sum(ratios) / len(ratios)


def _ratio(squared_error: float) -> float:
    return 10 * math.log10(PEAK**2 / squared_error)
