"""One training step, which updates the LoRA weights in place. Knows no file and prints nothing."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers.models.modeling_utils import ModelMixin

from lora.training.learning.batches import Batches
from lora.training.learning.data_parallel import SingleProcess
from lora.training.learning.losses import add_gradients, training_losses
from lora.training.learning.preservation import Preservation
from lora.training.learning.state import TrainingState
from lora.training.recipe.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Step:
    """The results of a step."""

    loss: float  # mean over all samples of the step in all processes, before the update; may not be finite
    preservation_loss: float | None  # None if the step has no preservation loss
    grad_norm: float  # over all layers, before clipping; may not be finite
    learning_rate: float
    mean_sigma: float  # over all samples of the step in all processes
    is_finite: bool  # otherwise the step was skipped
    is_stop_requested: bool  # whether any process was asked to stop


def take_step(
    transformer: ModelMixin,
    state: TrainingState,
    batches: Batches,
    recipe: Recipe,
    *,
    process_group: SingleProcess,
    preservation: Preservation | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Step:
    """Take the next step of a training, on `gradient_accumulation` batches, in which every sample counts the same. If
    preservation is due, its mean loss over as many batches is added.

    `should_stop` is called once all work of the step is queued on the device, so that an earlier stop request costs no
    further step. The host synchronizes with the device only once: the optimizer may not step if gradients are not
    finite, so the host reads their norm, together with all other values that it needs. Before that, it prepares the
    next batch while the device computes; after it, while the device waits, it queues a few kernels for all parameters.

    A loss or gradients that are not finite raise no error: `state` counts the step as skipped. Raises RuntimeError if
    another process of the training has ended, and torch.OutOfMemoryError if the GPU runs out of memory.
    """
    first = state.step * recipe.gradient_accumulation
    indices = range(first, first + recipe.gradient_accumulation)
    losses = [
        add_gradients(
            transformer, batches, indices, training_losses, modulation=state.modulation, process_group=process_group
        )
    ]
    if preservation is not None and preservation.is_due(state.step):
        losses.append(preservation.add_gradients(state.step, process_group=process_group))
    mean_sigma, learning_rate = batches.mean_sigma(indices), state.learning_rate()
    batches.prepare(indices.stop, part=process_group.part(len(batches.examples(indices.stop))))
    sums = process_group.all_reduce_gradients(state.parameters, losses=torch.stack(losses), should_stop=should_stop())
    stop_requests, norm, loss, *preservation_losses = torch.stack(
        [sums.stop_requests, state.clip(), *sums.losses]
    ).tolist()
    process_group.check()  # what a GPU has computed with a process that is gone is no sum
    state.update(is_finite=(is_finite := math.isfinite(norm)))
    preserving = preservation_losses[0] if preservation_losses else None
    return Step(loss, preserving, norm, learning_rate, mean_sigma, is_finite, stop_requests > 0)
