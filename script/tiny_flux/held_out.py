"""The loss on held-out images, at fixed noise and sigmas, so that it depends on the weights alone."""

import random
from dataclasses import dataclass

import torch

from lora.training.learning.flow_matching import add_noise, flow_matching_losses, velocity_target
from lora.training.learning.losses import TRAINING_GUIDANCE
from script.tiny_flux.described_monster import DescribedMonster, any_monster, describe
from script.tiny_flux.family import Networks, Text
from script.tiny_flux.latents import Autoencoder
from script.tiny_flux.pictures import Size, encode_images, render_subject
from script.tiny_flux.world import BACKGROUNDS, Scene, caption, held_out_scenes

SEED = 98
SIGMAS = (0.1, 0.3, 0.5, 0.7, 0.9)
SIZE = Size(128, 128)


@dataclass(frozen=True, slots=True)
class HeldOutLoss:
    """Mean losses at the guidance of LoRA training, without a LoRA."""

    world: float
    monsters: float

    def __str__(self) -> str:
        return f"loss {self.world:.4f} on held-out scenes, {self.monsters:.4f} on held-out monsters"


def held_out_loss(model: Networks, vae: Autoencoder, *, images: int) -> HeldOutLoss:
    """Return the loss on `images` images of each kind, in fp32, not compiled."""
    rng, backgrounds = random.Random(SEED), list(BACKGROUNDS)
    monsters = [any_monster(backgrounds[index % len(backgrounds)], rng) for index in range(images)]
    scenes = rng.sample(held_out_scenes(), images)
    return HeldOutLoss(_loss(model, vae, scenes, rng), _loss(model, vae, monsters, rng))


@torch.no_grad()
def _loss(
    model: Networks, vae: Autoencoder, subjects: list[Scene] | list[DescribedMonster], rng: random.Random
) -> float:
    device = model.transformer.device
    latents = encode_images(vae, [render_subject(subject, SIZE, rng) for subject in subjects]).float()
    text = model.encode([caption(s) if isinstance(s, Scene) else describe(s) for s in subjects])
    generator = torch.Generator().manual_seed(SEED)
    return sum(_loss_at(model, latents.to(device), text, sigma, generator) for sigma in SIGMAS) / len(SIGMAS)


def _loss_at(model: Networks, latents: torch.Tensor, text: Text, sigma: float, generator: torch.Generator) -> float:
    noise = torch.randn(latents.shape, generator=generator).to(latents.device)
    sigmas = torch.full((len(latents),), sigma, device=latents.device)
    noisy = add_noise(latents, noise, sigmas)
    predicted = model.velocity(model.transformer, noisy, sigmas=sigmas, text=text, guidance=TRAINING_GUIDANCE)
    return flow_matching_losses(predicted, velocity_target(latents, noise)).mean().item()
