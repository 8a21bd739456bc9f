"""Compare a contender's loss and gradients with the reference: PEFT's layers on a base in fp32, without our engine.

Gradients are those of the first batch, with the same noise and sigmas for all contenders, all parameters together.
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

REFERENCE = Arm("plain, fp32", "fp32", "blocks", is_ours=False)


@dataclass(frozen=True, slots=True)
class Tolerance:
    """The largest deviation that is allowed in a precision, as in the goals of the engine."""

    loss: float  # relative error
    cosine: float


# nf4 has none, as it is rounded much more
TOLERANCES: dict[Precision, Tolerance] = {"bf16": Tolerance(1e-3, 0.999), "int8": Tolerance(float("inf"), 0.99)}


@dataclass(frozen=True, slots=True)
class LossAndGradients:
    """The loss and gradients of the first batch."""

    loss: float
    gradients: Tensor  # of all parameters of the LoRA, on the CPU, fp32


@dataclass(frozen=True, slots=True)
class Deviation:
    """The deviation of an arm from the reference."""

    arm: str
    loss_error: float  # relative
    cosine: float  # of all gradients
    is_enough: bool


def reference_result(sizes: Sizes, inputs: Inputs) -> LossAndGradients | None:
    """Compute the reference with its own model; None if there is not enough memory for one in fp32."""
    try:
        return loss_and_gradients(set_up_training(REFERENCE, sizes), inputs)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return None


def loss_and_gradients(setup: TrainingSetup, inputs: Inputs) -> LossAndGradients:
    """Compute the loss and gradients with the initial LoRA."""
    setup.reset()
    first = inputs.batches.noisy_batch(0)
    assert first is not None
    loss = loss_at(setup.transformer, first.batch, noise=first.noise, sigmas=first.sigmas)
    found = torch.autograd.grad(loss, setup.parameters)
    return LossAndGradients(loss.item(), torch.cat([each.flatten().float().cpu() for each in found]))


def compare(arm: Arm, found: LossAndGradients, reference: LossAndGradients) -> Deviation:
    """The deviation of an arm's loss and gradients."""
    error = abs(found.loss / reference.loss - 1)
    cosine = torch.cosine_similarity(found.gradients.double(), reference.gradients.double(), dim=0).item()
    tolerance = TOLERANCES.get(arm.precision)
    is_enough = tolerance is None or (error <= tolerance.loss and cosine >= tolerance.cosine)
    return Deviation(arm.name, error, cosine, is_enough)


def as_lines(found: Iterable[Deviation]) -> str:
    """A table, and the arms that missed their tolerance."""
    deviations = list({each.arm: each for each in found}.values())
    rows = [[each.arm, f"{100 * each.loss_error:.3f} %", f"{each.cosine:.5f}"] for each in deviations]
    missed = ", ".join(each.arm for each in deviations if not each.is_enough) or "none"
    return f"{table(['contender', 'error of the loss', 'cosine of gradients'], rows)}\noutside the tolerance: {missed}"
