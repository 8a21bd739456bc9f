"""Preservation: a second loss that keeps the LoRA from changing what it is not trained on.

Before training, the base generates a few images of neutral prompts. In a share of the steps, noise is added to them as
to the training images, and the loss is the squared difference between the predictions with the LoRA and those of the
frozen base. This is the prior preservation of DreamBooth (Ruiz et al. 2022, arXiv 2208.12242) with the base's own
prediction as the target, as in learning without forgetting (Li and Hoiem 2016, arXiv 1606.09282).
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from peft.tuners.lora import LoraLayer
from torch import Tensor

from lora.dataset.encoding import EncodedDataset, Example
from lora.engine.lora_layers import lora_layers, without_lora
from lora.flux.latents import PATCH, TOKEN_PIXELS
from lora.flux.modulation import PrecomputedModulation
from lora.flux.prompt import Prompt
from lora.flux.sampling import build_pipeline, generate_latents
from lora.flux.velocity import embedder_weight, predict_velocity
from lora.training.learning.batches import Batches, NoiseSettings, NoisyBatch
from lora.training.learning.data_parallel import SingleProcess
from lora.training.learning.flow_matching import add_noise, flow_matching_losses
from lora.training.learning.losses import TRAINING_GUIDANCE, add_gradients, velocity_with_lora
from lora.training.learning.randomness import seed_for
from lora.training.recipe.recipe import Recipe, steps_that_preserve
from lora.training.stop import Stop, StopRequestedError

STEPS, GUIDANCE = 12, 3.5  # few steps, as image quality does not matter; the usual guidance of FLUX.1-dev


@dataclass(frozen=True, slots=True)
class NeutralImages:
    """The images that the base generates: one square image per prompt."""

    base: Path
    prompts: tuple[Prompt, ...]
    side: int  # pixels


class Preservation:
    """Adds the gradients of the preservation loss to those of training, in the steps in which it is due."""

    def __init__(
        self, transformer: FluxTransformer2DModel, recipe: Recipe, noise_settings: NoiseSettings, images: NeutralImages
    ) -> None:
        """The transformer has its LoRA already. `noise_settings` apply, except that captions are never dropped."""
        self._transformer, self._recipe, self._images = transformer, recipe, images
        self._noise_settings = replace(noise_settings, caption_dropout=0.0)
        self._layers = lora_layers(transformer)
        self._modulation = PrecomputedModulation(transformer, batch_size=recipe.batch_size)
        self._batches: Batches | None = None

    @property
    def image_count(self) -> int:
        """The number of images that the base generates."""
        return len(self._images.prompts)

    def generate(
        self, process_group: SingleProcess, *, stop: Stop, report: Callable[[str], object] = lambda _: None
    ) -> bool:
        """Generate the images with the base, a share of them in each process. Returns False if a process was asked to
        stop.

        The images are the same for the same base and seed, so a resumed training has the same images. `report` is
        called with a line after each image. Raises ValueError if the generated latents are not finite.
        """
        latents = self._generated(process_group, stop, report)
        if latents is None:
            return False
        if not latents.isfinite().all():
            raise ValueError("the base generates NaN or infinity: expected undamaged weights in its transformer")
        prompts = self._images.prompts
        examples = tuple(
            Example(each, prompt, content=f"neutral {index}")
            for index, (each, prompt) in enumerate(zip(latents, prompts, strict=True))
        )
        self._batches = Batches(
            EncodedDataset(examples, dropped=prompts[0]),
            batch_size=self._recipe.batch_size * process_group.size,
            noise_settings=self._noise_settings,
            seed=seed_for(self._recipe.seed, "preservation"),
        )
        return True

    def is_due(self, step: int) -> bool:
        """Whether a step, counted from 0, computes the preservation loss; such steps are spread evenly."""
        return self.steps_before(step + 1) > self.steps_before(step)

    def steps_before(self, step: int) -> int:
        """How many of the first `step` steps compute the preservation loss."""
        return steps_that_preserve(step, self._recipe.preservation)

    def add_gradients(self, step: int, *, process_group: SingleProcess) -> Tensor:
        """Add the gradients of the mean preservation loss over the batches of a step, as `losses.add_gradients` does.

        The batches are as large as those of training, as far as there are enough images.
        """
        assert self._batches is not None, "call generate first"
        count = self._recipe.gradient_accumulation
        first = self.steps_before(step) * count
        losses_of = partial(preservation_losses, layers=self._layers)
        indices = range(first, first + count)
        return add_gradients(
            self._transformer,
            self._batches,
            indices,
            losses_of,
            modulation=self._modulation,
            process_group=process_group,
        )

    @torch.no_grad()
    def _generated(self, process_group: SingleProcess, stop: Stop, report: Callable[[str], object]) -> Tensor | None:
        """The latents [N, C, H, W] of all images, fp32 on the CPU; None if a process was asked to stop."""
        images, count = self._images, self.image_count
        pipeline = build_pipeline(self._transformer, images.base)
        side = images.side // TOKEN_PIXELS * PATCH
        latents = torch.zeros(count, self._transformer.config.in_channels // PATCH**2, side, side)
        is_done = torch.zeros(count)
        with suppress(StopRequestedError), without_lora(self._layers):
            for index in range(process_group.rank, count, process_group.size):
                latents[index] = self._generate(pipeline, index, stop)
                is_done[index] = 1
                report(f"preservation: image {index + 1} of {count}")
        device = embedder_weight(self._transformer).device
        reduced = process_group.all_reduce(torch.cat([latents.flatten(), is_done]).to(device)).cpu()
        return reduced[:-count].view_as(latents) if reduced[-count:].all() else None

    def _generate(self, pipeline: FluxPipeline, index: int, stop: Stop) -> Tensor:
        images, transformer = self._images, self._transformer
        return generate_latents(
            pipeline,
            images.prompts[index].to(transformer.device, transformer.dtype),
            side=images.side,
            steps=STEPS,
            guidance=GUIDANCE,
            seed=seed_for(self._recipe.seed, "neutral image", index),
            after_step=stop.raise_if_requested,
        )


@torch.no_grad()
def base_velocity(
    transformer: FluxTransformer2DModel, noisy: Tensor, *, sigmas: Tensor, prompt: Prompt, layers: Sequence[LoraLayer]
) -> Tensor:
    """The velocity [B, C, H, W] that the frozen base predicts, bit for bit, although its layers have a LoRA."""
    with without_lora(layers):
        return predict_velocity(transformer, noisy, sigmas=sigmas, prompt=prompt, guidance=TRAINING_GUIDANCE)


def preservation_losses(
    transformer: FluxTransformer2DModel, noisy_batch: NoisyBatch, *, layers: Sequence[LoraLayer]
) -> Tensor:
    """The preservation losses [B]: the squared differences between the predictions with and without the LoRA."""
    noisy_batch = noisy_batch.to(embedder_weight(transformer).device)
    batch, sigmas = noisy_batch.batch, noisy_batch.sigmas
    noisy = add_noise(batch.latents, noisy_batch.noise, sigmas)
    target = base_velocity(transformer, noisy, sigmas=sigmas, prompt=batch.prompt, layers=layers)
    return flow_matching_losses(velocity_with_lora(transformer, noisy, sigmas=sigmas, prompt=batch.prompt), target)
