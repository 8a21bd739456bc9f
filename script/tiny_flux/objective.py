"""Velocity prediction for a batch of noisy samples, and its losses against the data. Knows no optimizer."""

import contextlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lora.training.learning.flow_matching import add_noise, flow_matching_losses, velocity_target
from lora.training.learning.losses import TRAINING_GUIDANCE
from lora.training.recipe.sigmas import Shift, SigmaRule
from script.tiny_flux.courses import Sample
from script.tiny_flux.family import Networks, Text

GUIDANCE = (1.0, 5.0)  # sampled uniformly, so that all of its values are trained before the distillation
TRAINING_GUIDANCE_SHARE = 0.3  # share of the steps at the guidance of LoRA training
UNIFORM_SIGMAS = 0.5  # share of sigmas that are sampled uniformly: few of FLUX's are low enough to train details
SEPARATION = 0.1  # weight of the overlap of made-up words and descriptions in the loss
RECOMPILE_LIMIT = 32  # batches differ by size and by which weights have gradients: 12 kinds, student and teacher
FLUX_SIGMAS = SigmaRule(logit_mean=None, logit_std=1.0, style_share=0.0)


@dataclass(frozen=True, slots=True)
class NoisyBatch:
    """Samples, and the noise and sigmas with which they are mixed."""

    samples: list[Sample]
    clean: Tensor  # [B, C, H, W], fp32
    noise: Tensor  # [B, C, H, W], fp32
    sigmas: Tensor  # [B]

    @property
    def noisy(self) -> Tensor:
        """The noisy latents, [B, C, H, W]."""
        return add_noise(self.clean, self.noise, self.sigmas)

    @property
    def velocity(self) -> Tensor:
        """The target velocity, [B, C, H, W]."""
        return velocity_target(self.clean, self.noise)


class NoiseSampler:
    """Samples noise and sigmas for the training of a LoRA or of the base."""

    def __init__(self, shift: Shift, networks: Networks, *, seed: int) -> None:
        self._shift, self._networks, self._device = shift, networks, networks.transformer.device
        self.generator = torch.Generator().manual_seed(seed)

    def for_lora(self, samples: list[Sample]) -> NoisyBatch:
        """Add noise with sigmas of the distribution of FLUX's training."""
        return self._batch(samples, self._flux_sigmas(samples))

    def for_base(self, samples: list[Sample]) -> NoisyBatch:
        """Add noise with more low sigmas, so that the base is accurate there, where details form."""
        uniform = torch.rand(len(samples), generator=self.generator)
        is_uniform = torch.rand(len(samples), generator=self.generator) < UNIFORM_SIGMAS
        return self._batch(samples, torch.where(is_uniform, uniform, self._flux_sigmas(samples)))

    def _flux_sigmas(self, samples: list[Sample]) -> Tensor:
        tokens = self._networks.image_tokens(samples[0].latents)
        return FLUX_SIGMAS.sample(len(samples), mu=self._shift.mu(tokens), generator=self.generator)

    def _batch(self, samples: list[Sample], sigmas: Tensor) -> NoisyBatch:
        clean = torch.stack([sample.latents for sample in samples]).float()
        noise = torch.randn(clean.shape, generator=self.generator)
        return NoisyBatch(samples, *(part.to(self._device) for part in (clean, noise, sigmas)))


@dataclass(frozen=True, slots=True)
class Predictor:
    """A model that computes in bf16 autocast; its transformer may be compiled."""

    model: Networks
    transformer: Callable[..., Any]
    is_compiled: bool

    def encode(self, captions: list[str]) -> Text:
        """Encode captions [B]."""
        with self._precision():
            return self.model.encode(captions)

    def velocity(self, batch: NoisyBatch, text: Text, *, guidance: float) -> Tensor:
        """Predict the velocity of each sample, fp32 [B, C, H, W]."""
        with self._precision():
            predicted = self.model.velocity(
                self.transformer, batch.noisy, sigmas=batch.sigmas, text=text, guidance=guidance
            )
        return predicted.float()

    @contextlib.contextmanager
    def _precision(self) -> Iterator[None]:
        """On a CPU, attention by plain matrix products has a faster bf16 backward pass than the fused kernel."""
        device = self.model.transformer.device.type
        fast = sdpa_kernel(SDPBackend.MATH) if device == "cpu" else contextlib.nullcontext()
        with torch.autocast(device, torch.bfloat16), fast:
            yield


def predictor_of(model: Networks, *, is_compiled: bool) -> Predictor:
    """Return a predictor. Compilation takes a minute for each kind of batch, and makes its steps twice as fast."""
    if not is_compiled:
        return Predictor(model, model.transformer, is_compiled)
    torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT  # beyond it, torch runs uncompiled without an error
    return Predictor(model, torch.compile(model.transformer, dynamic=False), is_compiled)


class FlowMatching:
    """The objective of the base's training: the flow-matching loss at a random guidance."""

    def __init__(self, predictor: Predictor) -> None:
        self.trained = self.lora_predictor = predictor

    def parameters_beside_matrices(self) -> list[nn.Parameter]:
        """Return the other parameters of the transformer, and those of the text encoders."""
        matrices = set(self.trained.model.block_matrices())
        return [weight for weight in self.trained.model.parameters() if weight not in matrices]

    def loss(self, batch: NoisyBatch, rng: random.Random) -> Tensor:
        """Return the loss of a batch, in `TRAINING_GUIDANCE_SHARE` of the steps at the guidance of LoRA training."""
        is_plain = rng.random() < TRAINING_GUIDANCE_SHARE
        return flow_loss(self.trained, batch, guidance=TRAINING_GUIDANCE if is_plain else rng.uniform(*GUIDANCE))


def flow_loss(predictor: Predictor, batch: NoisyBatch, *, guidance: float) -> Tensor:
    """Return the flow-matching loss plus the term that keeps made-up words apart from descriptions."""
    text = predictor.encode([sample.caption.text for sample in batch.samples])
    predicted = predictor.velocity(batch, text, guidance=guidance)
    overlap = _overlap(predictor.model, batch, text, guidance=guidance)
    return flow_matching_losses(predicted, batch.velocity).mean() + SEPARATION * overlap


def lora_loss(predictor: Predictor, batch: NoisyBatch) -> Tensor:
    """Return the loss of a practice LoRA."""
    return flow_loss(predictor, batch, guidance=TRAINING_GUIDANCE)


def _overlap(model: Networks, batch: NoisyBatch, text: Text, *, guidance: float) -> Tensor:
    """Return the mean squared cosine, 0..1, between the modulation inputs of made-up words and those of descriptions.

    A LoRA changes the outputs of a layer for all similar inputs. If the inputs for a trigger word and for other prompts
    are similar, a LoRA cannot change the one without the other.
    """
    inputs = model.modulation_input(batch.sigmas, text, guidance=guidance)
    captions = [sample.caption for sample in batch.samples]
    words = [index for index, caption in enumerate(captions) if caption.by_word]
    descriptions = [index for index, caption in enumerate(captions) if caption.text and not caption.by_word]
    if inputs is None or not words or not descriptions:
        return torch.zeros((), device=batch.sigmas.device)
    directions = nn.functional.normalize(inputs, dim=1)
    return (directions[words] @ directions[descriptions].T).square().mean()
