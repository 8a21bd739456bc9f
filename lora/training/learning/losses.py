"""The losses of batches and their gradients. Knows no optimizer and no schedule."""

from collections.abc import Callable, Iterable

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from lora.base.modulation import Conditions, PrecomputedModulation
from lora.base.prompt import Prompt
from lora.base.transformer import embedder_weight
from lora.engine.lora_layers import is_fused
from lora.families.registry import family_of_model
from lora.training.learning.batches import Batch, Batches, NoisyBatch
from lora.training.learning.data_parallel import SingleProcess
from lora.training.learning.flow_matching import add_noise, flow_matching_losses, velocity_target

TRAINING_GUIDANCE = 1.0  # training images have no guidance; a higher value would teach the model to ignore guidance

LossesOf = Callable[[ModelMixin, NoisyBatch], Tensor]  # returns the loss of each sample of a batch, [B]


def add_gradients(
    transformer: ModelMixin,
    batches: Batches,
    indices: Iterable[int],
    losses_of: LossesOf,
    *,
    modulation: PrecomputedModulation,
    process_group: SingleProcess,
) -> Tensor:
    """Add the gradients of the mean loss over all samples of some batches to the LoRA's gradients.

    Returns this process's share of that mean: a scalar on the device, without waiting for the device.
    """
    sizes = {index: len(batches.examples(index)) for index in indices}
    loss = torch.zeros((), device=embedder_weight(transformer).device)

    def conditions_of(index: int) -> Conditions | None:
        return batches.conditions(index, part=process_group.part(len(batches.examples(index))))

    for index, size in sizes.items():
        noisy_batch = batches.noisy_batch(index, part=process_group.part(size))
        if noisy_batch is not None:
            with modulation.precomputed(index, conditions_of, guidance=TRAINING_GUIDANCE):
                share = losses_of(transformer, noisy_batch).sum() / sum(sizes.values())
                share.backward()
            loss += share.detach()
    return loss


def training_losses(transformer: ModelMixin, noisy_batch: NoisyBatch) -> Tensor:
    """The flow-matching losses [B]: the squared errors of the predicted velocity. All but the transformer is fp32."""
    noisy_batch = noisy_batch.to(embedder_weight(transformer).device)
    batch, noise, sigmas = noisy_batch.batch, noisy_batch.noise, noisy_batch.sigmas
    noisy = add_noise(batch.latents, noise, sigmas)
    predicted = velocity_with_lora(transformer, noisy, sigmas=sigmas, prompt=batch.prompt, references=batch.references)
    return flow_matching_losses(predicted, velocity_target(batch.latents, noise), batch.weights)


def losses_at(transformer: ModelMixin, batch: Batch, *, noise: Tensor, sigmas: Tensor) -> Tensor:
    """The losses [B] at given noise [B, C, H, W] and sigmas [B], in fp32 except for the transformer itself."""
    return training_losses(transformer, NoisyBatch(batch, noise, sigmas))


def velocity_with_lora(
    transformer: ModelMixin, noisy: Tensor, *, sigmas: Tensor, prompt: Prompt, references: tuple[Tensor, ...] = ()
) -> Tensor:
    """The velocity [B, C, H, W] that is predicted in training. All inputs are on the transformer's device."""
    weight = embedder_weight(transformer)
    is_mixed = weight.dtype == torch.bfloat16 and not is_fused(transformer)  # the weights of PEFT's layers are fp32
    predict_velocity = family_of_model(transformer).transformer.predict_velocity
    with torch.autocast(weight.device.type, torch.bfloat16, enabled=is_mixed):
        return predict_velocity(
            transformer, noisy, sigmas=sigmas, prompt=prompt, guidance=TRAINING_GUIDANCE, references=references
        )


def loss_at(transformer: ModelMixin, batch: Batch, *, noise: Tensor, sigmas: Tensor) -> Tensor:
    """The mean of `losses_at`, as a scalar."""
    return losses_at(transformer, batch, noise=noise, sigmas=sigmas).mean()
