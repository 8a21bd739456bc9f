"""What the engine's tests share: a base wearing a LoRA on every layer, a question about pictures that it knows, and how
near an answer is to another."""

import functools
from dataclasses import dataclass

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor

from lora.engine.lora_layers import fuse_lora
from lora.engine.precision import Precision
from lora.flux.frozen_transformer import WeightPlacement, load_transformer
from lora.flux.prompt import Prompt
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
# Themselves and a thousand times themselves exact in bf16, in which diffusers hands them on: all are asked the same.
WORDS = 8  # tokens: a real prompt has 512, which takes long
SIGMAS = torch.tensor([0.125, 0.5])


@dataclass(frozen=True)
class Question:
    """A batch, and what it is mixed with."""

    batch: Batch
    noise: Tensor
    sigmas: Tensor = SIGMAS


@dataclass(frozen=True)
class Answer:
    """The loss of a question, and what it says of each parameter of the LoRA."""

    loss: float
    gradients: dict[str, Tensor]

    def flat(self) -> Tensor:
        return torch.cat([gradient.double().flatten() for gradient in self.gradients.values()])


@functools.cache
def a_question() -> Question:
    """About pictures of the world that tiny-flux was taught, in few words."""
    examples = world(tiny_pipeline(), count=len(SIGMAS))
    latents = torch.stack([example.latents for example in examples])
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(3))
    prompts = [Prompt(example.prompt.tokens[:WORDS], example.prompt.pooled) for example in examples]
    return Question(Batch(latents, Prompt.stack(prompts)), noise)


def small_question() -> Question:
    """To the small random transformer of tests/tiny.py, which bf16 takes no time on."""
    batch = tiny_batch(len(SIGMAS))
    noise = torch.randn(batch.latents.shape, generator=torch.Generator().manual_seed(3))
    return Question(batch, noise)


def worn(precision: Precision, *, on_host: bool = False) -> FluxTransformer2DModel:
    """tiny-flux held in a precision, with a LoRA that does something on each layer that can wear one."""
    return dressed(load_transformer(TINY_FLUX, WeightPlacement(precision, on_host, CPU)))


def small(dtype: torch.dtype) -> FluxTransformer2DModel:
    """The small transformer, with weights that are exact in bf16 whatever it computes in, dressed likewise."""
    return dressed(tiny_transformer(dtype=torch.bfloat16).to(dtype))


def fused(transformer: FluxTransformer2DModel) -> FluxTransformer2DModel:
    """On the engine."""
    fuse_lora(transformer)
    return transformer


def dressed(transformer: FluxTransformer2DModel) -> FluxTransformer2DModel:
    add_lora(transformer, layers=all_layers(transformer), rank=4, seed=0)
    randomize_lora(transformer, spread=0.02)
    return transformer


def answer(transformer: FluxTransformer2DModel, question: Question) -> Answer:
    transformer.zero_grad()
    loss = loss_at(transformer, question.batch, noise=question.noise, sigmas=question.sigmas)
    loss.backward()
    return Answer(loss.item(), {name: each.grad.clone() for name, each in lora_parameters(transformer).items()})


def cosine(found: Answer, expected: Answer) -> float:
    assert found.gradients.keys() == expected.gradients.keys()
    return torch.cosine_similarity(found.flat(), expected.flat(), dim=0).item()


def error(found: Answer, expected: Answer) -> float:
    """Of all gradients together, relative."""
    return ((found.flat() - expected.flat()).norm() / expected.flat().norm()).item()
