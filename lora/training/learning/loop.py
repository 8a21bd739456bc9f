"""One step. Tensors in, LoRA weights changed in place; knows no file and prints nothing."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import FluxTransformer2DModel

from lora.training.learning.batches import Batches
from lora.training.learning.data_parallel import SingleProcess
from lora.training.learning.losses import add_gradients, training_losses
from lora.training.learning.preservation import Preservation
from lora.training.learning.state import TrainingState
from lora.training.recipe.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Step:
    """A finished step."""

    loss: float
    preservation_loss: float | None  # None where the step had none
    is_finite: bool  # else it was skipped
    is_stop_requested: bool  # whether a process of the team was asked to stop


def take_step(
    transformer: FluxTransformer2DModel,
    state: TrainingState,
    batches: Batches,
    recipe: Recipe,
    *,
    team: SingleProcess,
    preservation: Preservation | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Step:
    """The next step of a training: `gradient_accumulation` batches, each sample of which counts the same; where
    preservation is due, as many batches of its own, whose mean loss is added.

    `should_stop` is asked when all of it is under way, so that a wish that comes before costs no further step. The
    device computes on while the host goes ahead, and makes the next batch, but for one moment: the optimizer may not
    step if gradients are not finite, and what it takes to know that is read together with all else that the host needs.
    """
    first = state.step * recipe.gradient_accumulation
    indices = range(first, first + recipe.gradient_accumulation)
    losses = [add_gradients(transformer, batches, indices, training_losses, ahead=state.ahead, team=team)]
    if preservation is not None and preservation.is_due(state.step):
        losses.append(preservation.add_gradients(state.step, team=team))
    batches.prepare(indices.stop, part=team.part(len(batches.examples(indices.stop))))
    sums = team.all_reduce_gradients(state.parameters, losses=torch.stack(losses), should_stop=should_stop())
    wishes, norm, loss, *preserved = torch.stack([sums.wishes, state.clip(), *sums.losses]).tolist()
    is_finite = math.isfinite(norm)
    state.update(is_finite=is_finite)
    return Step(loss, preserved[0] if preserved else None, is_finite, wishes > 0)
