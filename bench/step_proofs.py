"""How near a contender's loss and gradients are to the plain computation: PEFT's layers on a base in fp32, no engine.

Gradients are those of the first batch, with the noise and sigmas that all contenders begin with, all together.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.random_flux import Sizes
from bench.report import table
from bench.step_arms import Arm, TrainingSetup, set_up_training
from bench.step_loops import Inputs
from lora.engine.precision import Precision
from lora.training.learning.losses import loss_at
from lora.training.memory.out_of_memory import is_out_of_memory

PLAIN = Arm("plain, fp32", "fp32", "blocks", is_ours=False)


@dataclass(frozen=True, slots=True)
class Bar:
    """What a precision has to reach: as the goals of the engine say."""

    loss: float  # relative error
    cosine: float


BARS: dict[Precision, Bar] = {"bf16": Bar(1e-3, 0.999), "int8": Bar(float("inf"), 0.99)}  # nf4 is rounded by far more


@dataclass(frozen=True, slots=True)
class Answer:
    """To the first batch."""

    loss: float
    gradients: Tensor  # of all parameters of the LoRA, on the CPU, fp32


@dataclass(frozen=True, slots=True)
class Deviation:
    """Of an arm to the plain computation."""

    arm: str
    loss_error: float  # relative
    cosine: float  # of all gradients
    is_enough: bool


def plain_answer(sizes: Sizes, inputs: Inputs) -> Answer | None:
    """By a model of its own; None if memory does not suffice for one in fp32."""
    try:
        return answer_of(set_up_training(PLAIN, sizes), inputs)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return None


def answer_of(trained: TrainingSetup, inputs: Inputs) -> Answer:
    """With the LoRA as all arms begin with it."""
    trained.reset()
    first = inputs.batches.noisy_batch(0)
    assert first is not None
    loss = loss_at(trained.transformer, first.batch, noise=first.noise, sigmas=first.sigmas)
    found = torch.autograd.grad(loss, trained.parameters)
    return Answer(loss.item(), torch.cat([each.flatten().float().cpu() for each in found]))


def nearness(arm: Arm, found: Answer, plain: Answer) -> Deviation:
    """Of what an arm found."""
    error = abs(found.loss / plain.loss - 1)
    cosine = torch.cosine_similarity(found.gradients.double(), plain.gradients.double(), dim=0).item()
    bar = BARS.get(arm.precision)
    return Deviation(arm.name, error, cosine, bar is None or (error <= bar.loss and cosine >= bar.cosine))


def as_lines(found: Iterable[Deviation]) -> str:
    """A table, and who missed the bar."""
    each = list({near.arm: near for near in found}.values())
    rows = [[near.arm, f"{100 * near.loss_error:.3f} %", f"{near.cosine:.5f}"] for near in each]
    missed = ", ".join(near.arm for near in each if not near.is_enough) or "none"
    return f"{table(['contender', 'loss off by', 'cosine of gradients'], rows)}\nmissed the bar: {missed}"
