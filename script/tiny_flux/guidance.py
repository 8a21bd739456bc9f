"""Does the guidance input of a base mean what it says? A distance to true guidance of the same strength."""

import random
from dataclasses import dataclass

import torch
from diffusers import FluxPipeline
from torch import Tensor

from lora.flux.prompt import Prompt, encode_prompt
from lora.flux.velocity import predict_velocity
from lora.training.learning.flow import point_on_path
from lora.training.learning.losses import TRAINING_GUIDANCE
from script.tiny_flux.distillation import GUIDED_FROM
from script.tiny_flux.pictures import encode_images
from script.tiny_flux.world import Scene, caption, render

SEED = 97
SIDE = 128
SIGMAS = (0.3, 0.5, 0.7, 0.9, 1.0)
assert min(SIGMAS) > GUIDED_FROM


@dataclass(frozen=True, slots=True)
class GuidedQuestions:
    """Noisy pictures of scenes at every sigma, with the plain answers to them, with and without the prompt."""

    noisy: Tensor  # [N, 16, H, W]
    sigmas: Tensor  # [N]
    prompt: Prompt  # [N, ...]
    conditional: Tensor  # [N, 16, H, W]
    unconditional: Tensor

    def true_guidance(self, guidance: float) -> Tensor:
        """What classifier-free guidance of this strength answers (Ho and Salimans 2022, arXiv 2207.12598)."""
        return self.unconditional + guidance * (self.conditional - self.unconditional)


@torch.no_grad()
def guidance_distance(pipeline: FluxPipeline, questions: GuidedQuestions, guidance: float) -> float:
    """How far the answer at a guidance input is from true guidance, over how far the plain answer is from it.

    0 if the input means true guidance, 1 if it changes nothing; over all questions together, root mean square.
    """
    answer = _velocity(pipeline, questions.noisy, questions.sigmas, questions.prompt, guidance=guidance)
    target = questions.true_guidance(guidance)
    return float((answer - target).norm() / (questions.conditional - target).norm())


@torch.no_grad()
def guided_questions(pipeline: FluxPipeline, scenes: list[Scene]) -> GuidedQuestions:
    """One picture of each scene at every sigma, and the base's own answers at guidance 1."""
    rng, generator = random.Random(SEED), torch.Generator().manual_seed(SEED)
    latents = encode_images(pipeline.vae, [render(scene, width=SIDE, height=SIDE, rng=rng) for scene in scenes])
    clean = latents.float().repeat(len(SIGMAS), 1, 1, 1)
    sigmas = torch.tensor(SIGMAS).repeat_interleave(len(scenes))
    noisy = point_on_path(clean, torch.randn(clean.shape, generator=generator), sigmas)
    prompt = Prompt.stack([encode_prompt(pipeline, caption(scene)) for scene in scenes] * len(SIGMAS))
    empty = Prompt.stack([encode_prompt(pipeline, "")] * len(noisy))
    conditional, unconditional = (
        _velocity(pipeline, noisy, sigmas, text, guidance=TRAINING_GUIDANCE) for text in (prompt, empty)
    )
    return GuidedQuestions(noisy, sigmas, prompt, conditional, unconditional)


def _velocity(pipeline: FluxPipeline, noisy: Tensor, sigmas: Tensor, prompt: Prompt, *, guidance: float) -> Tensor:
    return predict_velocity(pipeline.transformer, noisy, sigmas=sigmas, prompt=prompt, guidance=guidance).float()
