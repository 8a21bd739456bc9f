"""What a transformer predicts for a batch of noisy samples, and how far that is from the data. Knows no optimizer."""

import contextlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lora.flux.prompt import Prompt
from lora.flux.velocity import predict_velocity
from lora.training.learning.flow import flow_losses, point_on_path, velocity_of_path
from lora.training.learning.losses import TRAINING_GUIDANCE
from lora.training.recipe.sigmas import Shift, SigmaRule
from script.tiny_flux.courses import Sample
from script.tiny_flux.networks import TinyFlux

GUIDANCE = (1.0, 5.0)  # drawn evenly, so that the guidance input is known before distillation gives it a meaning
TRAINING_GUIDANCE_SHARE = 0.3
EVEN_SIGMAS = 0.5  # share of sigmas drawn evenly: those of training hardly hold any that refine a picture at its end
SEPARATION = 0.1  # weight of the overlap of made-up words and descriptions in the loss
KINDS_OF_BATCHES = 32  # by size and by what has gradients, student's and teacher's together: 12, with room
TIMESTEPS = 1000  # what the transformer multiplies sigma and guidance by
LATENTS_TO_TOKENS = 4  # FLUX packs 2 x 2 latents into a token
LIKE_FLUX = SigmaRule(logit_mean=None, logit_std=1.0, style_share=0.0)


@dataclass(frozen=True, slots=True)
class NoisyBatch:
    """Samples part of the way to noise."""

    samples: list[Sample]
    clean: Tensor  # [B, 16, H, W], fp32
    noise: Tensor  # the same
    sigmas: Tensor  # [B]

    @property
    def noisy(self) -> Tensor:
        """Where they are, [B, 16, H, W]."""
        return point_on_path(self.clean, self.noise, self.sigmas)

    @property
    def velocity(self) -> Tensor:
        """The data's own answer, [B, 16, H, W]."""
        return velocity_of_path(self.clean, self.noise)


class Noise:
    """Draws noise and sigmas, as LoRAs are trained with them or as a base is."""

    def __init__(self, shift: Shift, *, seed: int, device: torch.device) -> None:
        self._shift, self._device = shift, device
        self.generator = torch.Generator().manual_seed(seed)

    def for_lora(self, samples: list[Sample]) -> NoisyBatch:
        """Sigmas as FLUX's training draws them."""
        return self._batch(samples, self._like_flux(samples))

    def for_base(self, samples: list[Sample]) -> NoisyBatch:
        """With more low sigmas, so that the base is firm where a picture is refined."""
        even = torch.rand(len(samples), generator=self.generator)
        is_even = torch.rand(len(samples), generator=self.generator) < EVEN_SIGMAS
        return self._batch(samples, torch.where(is_even, even, self._like_flux(samples)))

    def _like_flux(self, samples: list[Sample]) -> Tensor:
        tokens = samples[0].latents[0].numel() // LATENTS_TO_TOKENS
        return LIKE_FLUX.sample(len(samples), mu=self._shift.mu(tokens), generator=self.generator)

    def _batch(self, samples: list[Sample], sigmas: Tensor) -> NoisyBatch:
        clean = torch.stack([sample.latents for sample in samples]).float()
        noise = torch.randn(clean.shape, generator=self.generator)
        return NoisyBatch(samples, *(part.to(self._device) for part in (clean, noise, sigmas)))


@dataclass(frozen=True, slots=True)
class Predictor:
    """A model in bf16 where that is safe, its transformer compiled or not."""

    model: TinyFlux
    transformer: Callable[..., Any]
    is_compiled: bool

    def encode(self, captions: list[str]) -> Prompt:
        """Captions [B] as tokens [B, 32, D] and pooled [B, P]."""
        with self._precision():
            return self.model.encode(captions)

    def velocity(self, batch: NoisyBatch, prompt: Prompt, *, guidance: float) -> Tensor:
        """Predicted for each sample, fp32 [B, 16, H, W]."""
        with self._precision():
            predicted = predict_velocity(
                self.transformer, batch.noisy, sigmas=batch.sigmas, prompt=prompt, guidance=guidance
            )
        return predicted.float()

    @contextlib.contextmanager
    def _precision(self) -> Iterator[None]:
        """Plain matrix products beat the fused kernel's bf16 backward on a CPU."""
        device = self.model.transformer.device.type
        fast = sdpa_kernel(SDPBackend.MATH) if device == "cpu" else contextlib.nullcontext()
        with torch.autocast(device, torch.bfloat16), fast:
            yield


def predictor_of(model: TinyFlux, *, is_compiled: bool) -> Predictor:
    """Compiling takes a minute for each kind of batch, and makes its steps twice as fast."""
    if not is_compiled:
        return Predictor(model, model.transformer, is_compiled)
    torch._dynamo.config.recompile_limit = KINDS_OF_BATCHES  # more kinds than that would silently not be compiled
    return Predictor(model, torch.compile(model.transformer, dynamic=False), is_compiled)


class FlowMatching:
    """The objective of the base's own training: the data, at any guidance."""

    def __init__(self, predictor: Predictor) -> None:
        self.trained = self.practised = predictor

    def parameters_beside_matrices(self) -> list[nn.Parameter]:
        """Those of the transformer and of the text encoders."""
        matrices = set(self.trained.model.block_matrices())
        return [weight for weight in self.trained.model.parameters() if weight not in matrices]

    def loss(self, batch: NoisyBatch, rng: random.Random) -> Tensor:
        """Often at the guidance of training, where a LoRA learns."""
        is_plain = rng.random() < TRAINING_GUIDANCE_SHARE
        return flow_loss(self.trained, batch, guidance=TRAINING_GUIDANCE if is_plain else rng.uniform(*GUIDANCE))


def flow_loss(predictor: Predictor, batch: NoisyBatch, *, guidance: float) -> Tensor:
    """The flow-matching loss against the data, and what keeps made-up words apart from descriptions."""
    prompt = predictor.encode([sample.caption.text for sample in batch.samples])
    predicted = predictor.velocity(batch, prompt, guidance=guidance)
    overlap = _overlap(predictor.model, batch, prompt, guidance=guidance)
    return flow_losses(predicted, batch.velocity).mean() + SEPARATION * overlap


def lora_loss(predictor: Predictor, batch: NoisyBatch) -> Tensor:
    """The loss that a LoRA is trained with."""
    return flow_loss(predictor, batch, guidance=TRAINING_GUIDANCE)


def _overlap(model: TinyFlux, batch: NoisyBatch, prompt: Prompt, *, guidance: float) -> Tensor:
    """How much the modulation of made-up words has in common with that of descriptions: mean squared cosine, 0..1.

    A LoRA on a layer changes what its inputs have in common. Where the modulation of a trigger word is like that of
    everything else, no LoRA can change the one and leave the other.
    """
    scaled = torch.full_like(batch.sigmas, guidance * TIMESTEPS)
    embedded = model.transformer.time_text_embed(batch.sigmas * TIMESTEPS, scaled, prompt.pooled.float())
    directions = nn.functional.normalize(nn.functional.silu(embedded), dim=1)
    captions = [sample.caption for sample in batch.samples]
    words = [index for index, caption in enumerate(captions) if caption.by_word]
    descriptions = [index for index, caption in enumerate(captions) if caption.text and not caption.by_word]
    if not words or not descriptions:
        return torch.zeros((), device=directions.device)
    return (directions[words] @ directions[descriptions].T).square().mean()
