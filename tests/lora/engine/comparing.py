"""Helpers of the engine's tests: a base with a LoRA on every layer, inputs of the loss, and comparisons of losses and
gradients."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from lora.base.prompt import Prompt
from lora.dataset.encoding import Example
from lora.engine.lora_layers import fuse_lora
from lora.engine.precision import Precision
from lora.families.frozen_transformer import WeightPlacement, load_transformer
from lora.training.learning.adapter import add_lora
from lora.training.learning.batches import Batch
from lora.training.learning.losses import loss_at
from script.tiny_flux.learning import world
from tests.random_klein import klein_example, random_klein_transformer
from tests.tiny import (
    LAYERS,
    TINY_FLUX,
    all_layers,
    lora_parameters,
    randomize_lora,
    tiny_example,
    tiny_pipeline,
    tiny_transformer,
)

CPU = torch.device("cpu")
TOKENS = 8  # per prompt: a real prompt has 512, which takes long
# Exact in bf16, and so are they times 1000, as diffusers passes them on: all precisions get the same inputs.
SIGMAS = torch.tensor([0.125, 0.5])


@dataclass(frozen=True)
class SmallModel:
    """A family's small random transformer of two double and two single blocks, which is fast even in bf16."""

    family: str
    transformer: Callable[..., ModelMixin]
    example: Callable[..., Example]
    layers: int  # in all blocks


FLUX1 = SmallModel("FLUX.1", tiny_transformer, tiny_example, LAYERS)
FLUX2 = SmallModel("FLUX.2", random_klein_transformer, klein_example, 2 * 12 + 2 * 2)
MODELS = (FLUX1, FLUX2)


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


def small_inputs(model: SmallModel = FLUX1) -> LossInputs:
    """Inputs for the small transformer of a family."""
    return inputs_of([model.example(seed=index) for index in range(len(SIGMAS))], SIGMAS, seed=3)


def inputs_of(examples: list[Example], sigmas: Tensor, *, seed: int) -> LossInputs:
    """Inputs of these examples, with noise of this seed."""
    latents = torch.stack([example.latents for example in examples])
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed))
    return LossInputs(Batch(latents, Prompt.stack([example.prompt for example in examples])), noise, sigmas)


def tiny_flux_with_lora(precision: Precision, *, on_host: bool = False) -> ModelMixin:
    """tiny-flux in a precision, with a LoRA that is not zero on each layer that can have one."""
    return with_lora(load_transformer(TINY_FLUX, WeightPlacement(precision, on_host, CPU)))


def small(dtype: torch.dtype, model: SmallModel = FLUX1) -> ModelMixin:
    """A small transformer with such a LoRA, and weights that are exact in bf16 whatever precision it computes in."""
    return with_lora(model.transformer(dtype=torch.bfloat16).to(dtype))


def fused(transformer: ModelMixin) -> ModelMixin:
    """Fuse the LoRA layers."""
    fuse_lora(transformer)
    return transformer


def with_lora(transformer: ModelMixin) -> ModelMixin:
    add_lora(transformer, layers=all_layers(transformer), rank=4, seed=0)
    randomize_lora(transformer, spread=0.02)
    return transformer


def loss_and_gradients(transformer: ModelMixin, inputs: LossInputs) -> LossAndGradients:
    transformer.zero_grad()
    loss = loss_at(transformer, inputs.batch, noise=inputs.noise, sigmas=inputs.sigmas)
    loss.backward()
    gradients = {name: each.grad.clone() for name, each in lora_parameters(transformer).items()}
    return LossAndGradients(loss.item(), gradients)


def loss_of(transformer: ModelMixin, inputs: LossInputs) -> float:
    """The loss alone, without gradients."""
    with torch.no_grad():
        return loss_at(transformer, inputs.batch, noise=inputs.noise, sigmas=inputs.sigmas).item()


def cosine(found: LossAndGradients, expected: LossAndGradients) -> float:
    assert found.gradients.keys() == expected.gradients.keys()
    return torch.cosine_similarity(found.flat(), expected.flat(), dim=0).item()


def error(found: LossAndGradients, expected: LossAndGradients) -> float:
    """The relative error of all gradients together."""
    return ((found.flat() - expected.flat()).norm() / expected.flat().norm()).item()
