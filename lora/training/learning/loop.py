"""One step. Tensors in, LoRA weights changed in place; knows no file and prints nothing."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor

from lora.flux.engine.layers import is_fused
from lora.flux.modulation import Conditions
from lora.flux.velocity import entrance, predict_velocity
from lora.training.learning.batches import Batch, Batches
from lora.training.learning.flow import flow_losses, point_on_path, velocity_of_path
from lora.training.learning.state import TrainingState
from lora.training.learning.team import Solo
from lora.training.recipe.recipe import Recipe

TRAINING_GUIDANCE = 1.0  # the data are samples without guidance; asking for more would teach the model to ignore it


@dataclass(frozen=True, slots=True)
class Step:
    """A finished step."""

    loss: float
    is_finite: bool  # else it was skipped
    is_last_wish: bool  # whether a process of the team was asked to stop


def take_step(
    transformer: FluxTransformer2DModel,
    state: TrainingState,
    batches: Batches,
    recipe: Recipe,
    *,
    team: Solo,
    is_to_stop: Callable[[], bool] = lambda: False,
) -> Step:
    """The next step of a training: `gradient_accumulation` batches, each sample of which counts the same.

    `is_to_stop` is asked when all of it is under way, so that a wish that comes before costs no further step. The
    device computes on while the host goes ahead, and makes the next batch, but for one moment: the optimizer may not
    step if gradients are not finite, and what it takes to know that is read together with all else that the host needs.
    """
    first = state.step * recipe.gradient_accumulation
    indices = range(first, first + recipe.gradient_accumulation)
    sizes = {index: len(batches.examples(index)) for index in indices}
    loss = torch.zeros((), device=entrance(transformer).device)

    def conditions_of(index: int) -> Conditions | None:
        return batches.conditions(index, part=team.part(len(batches.examples(index))))

    for index, size in sizes.items():
        noised = batches.noised(index, part=team.part(size))
        if noised is not None:
            with state.ahead.answering(index, conditions_of, guidance=TRAINING_GUIDANCE):
                losses = losses_at(transformer, noised.batch, noise=noised.noise, sigmas=noised.sigmas)
                share = losses.sum() / sum(sizes.values())
                share.backward()
            loss += share.detach()
    batches.prepare(indices.stop, part=team.part(len(batches.examples(indices.stop))))
    sums = team.add_up(state.parameters, loss=loss, is_to_stop=is_to_stop())
    total, wishes, norm = torch.stack([sums.loss, sums.wishes, state.clip()]).tolist()
    is_finite = math.isfinite(norm)
    state.update(is_finite=is_finite)
    return Step(total, is_finite, wishes > 0)


def losses_at(transformer: FluxTransformer2DModel, batch: Batch, *, noise: Tensor, sigmas: Tensor) -> Tensor:
    """The losses [B] at given noise [B, C, H, W] and sigmas [B]: everything in fp32 but the transformer's own work."""
    weight = entrance(transformer)
    device = weight.device
    batch, noise, sigmas = batch.to(device), noise.to(device), sigmas.to(device)
    noisy = point_on_path(batch.latents, noise, sigmas)
    is_mixed = weight.dtype == torch.bfloat16 and not is_fused(transformer)  # PEFT's layers, in fp32
    with torch.autocast(device.type, torch.bfloat16, enabled=is_mixed):
        predicted = predict_velocity(transformer, noisy, sigmas=sigmas, prompt=batch.prompt, guidance=TRAINING_GUIDANCE)
    return flow_losses(predicted, velocity_of_path(batch.latents, noise))


def loss_at(transformer: FluxTransformer2DModel, batch: Batch, *, noise: Tensor, sigmas: Tensor) -> Tensor:
    """The mean of `losses_at`. Scalar."""
    return losses_at(transformer, batch, noise=noise, sigmas=sigmas).mean()
