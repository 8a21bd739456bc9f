"""The effect of the guidance input of a base: its distance to classifier-free guidance of the same strength."""

import random
from dataclasses import dataclass

import torch
from diffusers import FluxPipeline
from torch import Tensor

from lora.base.prompt import Prompt
from lora.flux.prompt import encode_prompt
from lora.flux.velocity import predict_velocity
from lora.training.learning.flow_matching import add_noise
from lora.training.learning.losses import TRAINING_GUIDANCE
from script.tiny_flux.distillation import GUIDED_FROM
from script.tiny_flux.pictures import encode_images
from script.tiny_flux.world import Scene, caption, render

SEED = 97
SIDE = 128
SIGMAS = (0.3, 0.5, 0.7, 0.9, 1.0)
assert min(SIGMAS) > GUIDED_FROM


@dataclass(frozen=True, slots=True)
class GuidanceBatch:
    """Noisy latents of scenes at every sigma, with the base's velocities at guidance 1, with and without the prompt."""

    noisy: Tensor  # [N, 16, H, W]
    sigmas: Tensor  # [N]
    prompt: Prompt  # [N, ...]
    conditional: Tensor  # [N, 16, H, W]
    unconditional: Tensor

    def classifier_free_guidance(self, guidance: float) -> Tensor:
        """Return the velocity [N, 16, H, W] of classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598)."""
        return self.unconditional + guidance * (self.conditional - self.unconditional)


@torch.no_grad()
def guidance_distance(pipeline: FluxPipeline, batch: GuidanceBatch, guidance: float) -> float:
    """Return the distance of the base's velocity at this guidance input from classifier-free guidance.

    It is relative to the distance at guidance input 1; both are norms over the whole batch. 0 means equal to
    classifier-free guidance, 1 means that the input has no effect.
    """
    predicted = _velocity(pipeline, batch.noisy, batch.sigmas, batch.prompt, guidance=guidance)
    target = batch.classifier_free_guidance(guidance)
    return float((predicted - target).norm() / (batch.conditional - target).norm())


@torch.no_grad()
def guidance_batch(pipeline: FluxPipeline, scenes: list[Scene]) -> GuidanceBatch:
    """Render one image of each scene, and return it at every sigma with the base's velocities at guidance 1."""
    rng, generator = random.Random(SEED), torch.Generator().manual_seed(SEED)
    latents = encode_images(pipeline.vae, [render(scene, width=SIDE, height=SIDE, rng=rng) for scene in scenes])
    clean = latents.float().repeat(len(SIGMAS), 1, 1, 1)
    sigmas = torch.tensor(SIGMAS).repeat_interleave(len(scenes))
    noisy = add_noise(clean, torch.randn(clean.shape, generator=generator), sigmas)
    prompt = Prompt.stack([encode_prompt(pipeline, caption(scene)) for scene in scenes] * len(SIGMAS))
    empty = Prompt.stack([encode_prompt(pipeline, "")] * len(noisy))
    conditional, unconditional = (
        _velocity(pipeline, noisy, sigmas, text, guidance=TRAINING_GUIDANCE) for text in (prompt, empty)
    )
    return GuidanceBatch(noisy, sigmas, prompt, conditional, unconditional)


def _velocity(pipeline: FluxPipeline, noisy: Tensor, sigmas: Tensor, prompt: Prompt, *, guidance: float) -> Tensor:
    return predict_velocity(pipeline.transformer, noisy, sigmas=sigmas, prompt=prompt, guidance=guidance).float()
