"""Preservation: a second loss that keeps the LoRA from changing what it is not trained on.

Before training, the base generates the images of neutral prompts that the steps ask for. In a share of the steps, noise
is added to them as to the training images, and the loss is the squared difference between the predictions with the LoRA
and those of the frozen base, times a weight. This is the prior preservation of DreamBooth (Ruiz et al. 2022, arXiv
2208.12242) with the base's own prediction as the target, as in learning without forgetting (Li and Hoiem 2016, arXiv
1606.09282).
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from diffusers.models.modeling_utils import ModelMixin
from peft.tuners.lora import LoraLayer
from torch import Tensor

from lora.base.family import Family, SamplingSettings
from lora.base.latents import TOKEN_PIXELS
from lora.base.prompt import Prompt
from lora.base.transformer import embedder_weight
from lora.dataset.encoding import EncodedDataset, Example
from lora.engine.lora_layers import lora_layers, without_lora
from lora.families.registry import family_of_model, precomputed_modulation
from lora.training.learning.batches import Batches, NoiseSettings, NoisyBatch
from lora.training.learning.data_parallel import SingleProcess
from lora.training.learning.flow_matching import add_noise, flow_matching_losses
from lora.training.learning.forward_passes import as_in_a_step
from lora.training.learning.losses import TRAINING_GUIDANCE, add_gradients, velocity_with_lora
from lora.training.learning.randomness import seed_for
from lora.training.recipe.recipe import Recipe, steps_that_preserve
from lora.training.stop import Stop, StopRequestedError

STEPS = 12  # few, as image quality does not matter


@dataclass(frozen=True, slots=True)
class NeutralImages:
    """The images that the base generates: one square image per prompt."""

    base: Path
    prompts: tuple[Prompt, ...]
    negative: Prompt | None  # for all of them, if the base needs one
    side: int  # pixels

    def blank_latents(self, transformer: ModelMixin, family: Family) -> Tensor:
        """Latents [N, C, H, W] for the images, as a transformer takes them, in fp32 on the CPU, of zeros."""
        patch = family.latents.patch
        side = self.side // TOKEN_PIXELS * patch
        return torch.zeros(len(self.prompts), transformer.config.in_channels // patch**2, side, side)


class Preservation:
    """Adds the gradients of the preservation loss to those of training, in the steps in which it is due."""

    def __init__(
        self,
        transformer: ModelMixin,
        recipe: Recipe,
        noise_settings: NoiseSettings,
        images: NeutralImages,
        *,
        processes: int,
    ) -> None:
        """The transformer has its LoRA already. `noise_settings` apply, except that captions are never dropped."""
        self._transformer, self._recipe, self._images = transformer, recipe, images
        self._noise_settings = replace(noise_settings, caption_dropout=0.0)
        self._batch_size = recipe.batch_size * processes
        self._layers = lora_layers(transformer)
        self._modulation = precomputed_modulation(transformer, batch_size=recipe.batch_size)
        self._sampling = family_of_model(transformer).sampling
        self._latents = images.blank_latents(transformer, family_of_model(transformer))
        self._batches = self._batches_of(
            Example(latents, prompt, content=str(index))
            for index, (latents, prompt) in enumerate(zip(self._latents, images.prompts, strict=True))
        )
        self._is_generated = False

    def images_for(self, steps: range) -> list[int]:
        """Which images these steps ask for, by their index."""
        count = self._recipe.gradient_accumulation
        first, after = (self.steps_before(step) * count for step in (steps.start, steps.stop))
        examples = (example for index in range(first, after) for example in self._batches.examples(index))
        return sorted({int(example.content) for example in examples})

    def generate(
        self,
        process_group: SingleProcess,
        *,
        steps: range,
        stop: Stop,
        report: Callable[[str], object] = lambda _: None,
    ) -> bool:
        """Generate the images that the preserving ones of these steps ask for, with the base, a share of them in each
        process. Returns False if a process was asked to stop.

        An image is the same for the same base and seed whatever the steps, so a resumed training has the same images.
        `report` is called with a line after each image. Raises ValueError if the generated latents are not finite.
        """
        indices = self.images_for(steps)
        self._is_generated = self._generate_images(indices, process_group, stop, report)
        if not self._latents.isfinite().all():
            raise ValueError("the base generates NaN or infinity: expected undamaged weights in its transformer")
        return self._is_generated

    def is_due(self, step: int) -> bool:
        """Whether a step, counted from 0, computes the preservation loss; such steps are spread evenly."""
        return self.steps_before(step + 1) > self.steps_before(step)

    def steps_before(self, step: int) -> int:
        """How many of the first `step` steps compute the preservation loss."""
        return steps_that_preserve(step, self._recipe.preservation)

    def add_gradients(self, step: int, *, process_group: SingleProcess) -> Tensor:
        """Add the gradients of the mean preservation loss over the batches of a step, times its weight, and return the
        mean without the weight, as `losses.add_gradients` does.

        The batches are as large as those of training, as far as there are enough images.
        """
        assert self._is_generated, "call generate first"
        count = self._recipe.gradient_accumulation
        first = self.steps_before(step) * count
        indices = range(first, first + count)
        weighted = add_gradients(
            self._transformer,
            self._batches,
            indices,
            self.losses,
            modulation=self._modulation,
            process_group=process_group,
        )
        return weighted / self._recipe.preservation_weight

    def losses(self, transformer: ModelMixin, noisy_batch: NoisyBatch) -> Tensor:
        """The losses [B] of a batch of images, times their weight."""
        weight = self._recipe.preservation_weight
        return weight * preservation_losses(transformer, noisy_batch, layers=self._layers)

    def _batches_of(self, examples: Iterable[Example]) -> Batches:
        asked = tuple(examples)
        return Batches(
            EncodedDataset(asked, dropped=asked[0].prompt),
            batch_size=self._batch_size,
            noise_settings=self._noise_settings,
            seed=seed_for(self._recipe.seed, "preservation"),
        )

    @torch.no_grad()
    def _generate_images(
        self, indices: Sequence[int], process_group: SingleProcess, stop: Stop, report: Callable[[str], object]
    ) -> bool:
        """Fill the latents of these images; returns False if a process was asked to stop."""
        pipeline = self._sampling.build_pipeline(self._transformer, self._images.base)
        generated = torch.zeros(len(indices), *self._latents.shape[1:])
        is_done = torch.zeros(len(indices))
        with suppress(StopRequestedError), without_lora(self._layers), as_in_a_step(self._transformer):
            for place in range(process_group.rank, len(indices), process_group.size):
                generated[place] = self._generate(pipeline, indices[place], stop)
                is_done[place] = 1
                report(f"preservation: image {place + 1} of {len(indices)}")
        device = embedder_weight(self._transformer).device
        reduced = process_group.all_reduce(torch.cat([generated.flatten(), is_done]).to(device)).cpu()
        self._latents[list(indices)] = reduced[: generated.numel()].view_as(generated)
        return bool(reduced[generated.numel() :].all())

    def _generate(self, pipeline: DiffusionPipeline, index: int, stop: Stop) -> Tensor:
        images, here = self._images, (self._transformer.device, self._transformer.dtype)
        settings = SamplingSettings(
            width=images.side,
            height=images.side,
            steps=STEPS,
            guidance=self._sampling.defaults.guidance,
            seed=seed_for(self._recipe.seed, "neutral image", index),
            after_step=lambda _: stop.raise_if_requested(),
        )
        negative = None if images.negative is None else images.negative.to(*here)
        return self._sampling.generate_latents(pipeline, images.prompts[index].to(*here), negative, settings)


@torch.no_grad()
def base_velocity(
    transformer: ModelMixin, noisy: Tensor, *, sigmas: Tensor, prompt: Prompt, layers: Sequence[LoraLayer]
) -> Tensor:
    """The velocity [B, C, H, W] that the frozen base predicts, bit for bit, although its layers have a LoRA. It is
    computed by the blocks of a step, compiled if those are, which is fast, and rounds as the prediction with the LoRA.
    """
    predict_velocity = family_of_model(transformer).transformer.predict_velocity
    with without_lora(layers), as_in_a_step(transformer):
        return predict_velocity(transformer, noisy, sigmas=sigmas, prompt=prompt, guidance=TRAINING_GUIDANCE)


def preservation_losses(transformer: ModelMixin, noisy_batch: NoisyBatch, *, layers: Sequence[LoraLayer]) -> Tensor:
    """The preservation losses [B]: the squared differences between the predictions with and without the LoRA."""
    noisy_batch = noisy_batch.to(embedder_weight(transformer).device)
    batch, sigmas = noisy_batch.batch, noisy_batch.sigmas
    noisy = add_noise(batch.latents, noisy_batch.noise, sigmas)
    target = base_velocity(transformer, noisy, sigmas=sigmas, prompt=batch.prompt, layers=layers)
    return flow_matching_losses(velocity_with_lora(transformer, noisy, sigmas=sigmas, prompt=batch.prompt), target)
