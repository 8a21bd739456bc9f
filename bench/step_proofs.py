"""Compare a contender's loss and gradients with the reference: PEFT's layers on a base in fp32, without our engine, and
without Accelerate, whose autocast would make it compute in bf16.

Gradients are those of the first batch, with the same noise and sigmas for all contenders, all parameters together.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.random_flux import TransformerSizes
from bench.report import table
from bench.step_arms import Arm, LoraModel, lora_model
from bench.step_loops import Inputs
from lora.base.device import device
from lora.engine.out_of_memory import is_out_of_memory
from lora.engine.precision import Precision
from lora.families.frozen_transformer import WeightPlacement
from lora.training.learning.losses import loss_at


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


def reference_result(sizes: TransformerSizes, inputs: Inputs) -> LossAndGradients | None:
    """As `compute_reference`; None if there is not enough memory for a model in fp32."""
    try:
        return compute_reference(sizes, inputs)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return None


def compute_reference(sizes: TransformerSizes, inputs: Inputs) -> LossAndGradients:
    """Compute the reference with its own model, whose blocks are recomputed. Raises TypeError if a layer of a block
    does not answer in fp32, and torch.OutOfMemoryError."""
    model = lora_model(sizes, WeightPlacement("fp32", modulation_on_host=False, device=device()))
    model.transformer.enable_gradient_checkpointing()
    with required_dtype(torch.float32, model.transformer.transformer_blocks[0].attn.to_q):
        return loss_and_gradients(model, inputs)


@contextmanager
def required_dtype(dtype: torch.dtype, layer: nn.Module) -> Iterator[None]:
    """Inside the `with` block, raise TypeError if a layer's output does not have a dtype."""

    def check(_layer: nn.Module, _inputs: object, output: Tensor) -> None:
        if output.dtype != dtype:
            raise TypeError(f"a layer of the reference answers in {output.dtype}: expected {dtype}, without autocast")

    hook = layer.register_forward_hook(check)
    try:
        yield
    finally:
        hook.remove()


def loss_and_gradients(model: LoraModel, inputs: Inputs) -> LossAndGradients:
    """Compute the loss and gradients with the initial LoRA."""
    model.reset()
    first = inputs.batches.noisy_batch(0)
    assert first is not None
    loss = loss_at(model.transformer, first.batch, noise=first.noise, sigmas=first.sigmas)
    found = torch.autograd.grad(loss, model.parameters)
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
