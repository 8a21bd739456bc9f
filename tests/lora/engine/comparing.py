"""Helpers of the engine's tests: a base with a LoRA on every layer, inputs of the loss, and comparisons of losses and
gradients."""

import functools
from dataclasses import dataclass

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor

from lora.base.prompt import Prompt
from lora.engine.lora_layers import fuse_lora
from lora.engine.precision import Precision
from lora.families.frozen_transformer import WeightPlacement, load_transformer
from lora.training.learning.adapter import add_lora
from lora.training.learning.batches import Batch
from lora.training.learning.losses import loss_at
from script.tiny_flux.learning import world
from tests.tiny import (
    TINY_FLUX,
    all_layers,
    lora_parameters,
    randomize_lora,
    tiny_batch,
    tiny_pipeline,
    tiny_transformer,
)

CPU = torch.device("cpu")
TOKENS = 8  # per prompt: a real prompt has 512, which takes long
# Exact in bf16, and so are they times 1000, as diffusers passes them on: all precisions get the same inputs.
SIGMAS = torch.tensor([0.125, 0.5])


@dataclass(frozen=True)
class LossInputs:
    """A batch, and the noise and sigmas that are added to it."""

    batch: Batch
    noise: Tensor
    sigmas: Tensor = SIGMAS


@dataclass(frozen=True)
class LossAndGradients:
    """The loss for some inputs, and its gradient by each parameter of the LoRA."""

    loss: float
    gradients: dict[str, Tensor]

    def flat(self) -> Tensor:
        return torch.cat([gradient.double().flatten() for gradient in self.gradients.values()])


@functools.cache
def world_inputs() -> LossInputs:
    """Images of the world that tiny-flux was trained on, with short prompts."""
    examples = world(tiny_pipeline(), count=len(SIGMAS))
    latents = torch.stack([example.latents for example in examples])
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(3))
    prompts = [Prompt(example.prompt.tokens[:TOKENS], example.prompt.pooled) for example in examples]
    return LossInputs(Batch(latents, Prompt.stack(prompts)), noise)


def small_inputs() -> LossInputs:
    """Inputs for the small random transformer of tests/tiny.py, which is fast even in bf16."""
    batch = tiny_batch(len(SIGMAS))
    noise = torch.randn(batch.latents.shape, generator=torch.Generator().manual_seed(3))
    return LossInputs(batch, noise)


def tiny_flux_with_lora(precision: Precision, *, on_host: bool = False) -> FluxTransformer2DModel:
    """tiny-flux in a precision, with a LoRA that is not zero on each layer that can have one."""
    return with_lora(load_transformer(TINY_FLUX, WeightPlacement(precision, on_host, CPU)))


def small(dtype: torch.dtype) -> FluxTransformer2DModel:
    """The small transformer with such a LoRA, and weights that are exact in bf16 whatever precision it computes in."""
    return with_lora(tiny_transformer(dtype=torch.bfloat16).to(dtype))


def fused(transformer: FluxTransformer2DModel) -> FluxTransformer2DModel:
    """Fuse the LoRA layers."""
    fuse_lora(transformer)
    return transformer


def with_lora(transformer: FluxTransformer2DModel) -> FluxTransformer2DModel:
    add_lora(transformer, layers=all_layers(transformer), rank=4, seed=0)
    randomize_lora(transformer, spread=0.02)
    return transformer


def loss_and_gradients(transformer: FluxTransformer2DModel, inputs: LossInputs) -> LossAndGradients:
    transformer.zero_grad()
    loss = loss_at(transformer, inputs.batch, noise=inputs.noise, sigmas=inputs.sigmas)
    loss.backward()
    gradients = {name: each.grad.clone() for name, each in lora_parameters(transformer).items()}
    return LossAndGradients(loss.item(), gradients)


def cosine(found: LossAndGradients, expected: LossAndGradients) -> float:
    assert found.gradients.keys() == expected.gradients.keys()
    return torch.cosine_similarity(found.flat(), expected.flat(), dim=0).item()


def error(found: LossAndGradients, expected: LossAndGradients) -> float:
    """The relative error of all gradients together."""
    return ((found.flat() - expected.flat()).norm() / expected.flat().norm()).item()
