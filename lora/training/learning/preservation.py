"""Preservation: a LoRA changes what it is trained on, and leaves the rest of the base alone.

Before training, the base itself generates a few images of neutral prompts. In a share of the steps noise is added to
them as to the training's, and the transformer with the LoRA is held to the frozen base's prediction. It is the prior
preservation of DreamBooth (Ruiz et al. 2022, arXiv 2208.12242) with the base's own prediction as the target, as in
learning without forgetting (Li and Hoiem 2016, arXiv 1606.09282).
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
from lora.training.learning.batches import Batches, Draws, NoisyBatch
from lora.training.learning.data_parallel import SingleProcess
from lora.training.learning.flow import flow_losses, point_on_path
from lora.training.learning.losses import TRAINING_GUIDANCE, add_gradients, velocity_with_lora
from lora.training.learning.randomness import seed_for
from lora.training.recipe.recipe import Recipe, steps_that_preserve
from lora.training.stop import Stop, StopRequestedError

STEPS, GUIDANCE = 12, 3.5  # of the images, which need not be beautiful; guidance as FLUX.1-dev is used


@dataclass(frozen=True, slots=True)
class NeutralImages:
    """What the base is to generate: one square image a prompt."""

    base: Path
    prompts: tuple[Prompt, ...]
    side: int  # pixels


class Preservation:
    """Adds the gradients of preservation to those of training, in the steps where that is due."""

    def __init__(
        self, transformer: FluxTransformer2DModel, recipe: Recipe, draws: Draws, images: NeutralImages
    ) -> None:
        """For a transformer that has its LoRA already. Noise is drawn by `draws`; captions are never dropped."""
        self._transformer, self._recipe, self._images = transformer, recipe, images
        self._draws = replace(draws, caption_dropout=0.0)
        self._layers = lora_layers(transformer)
        self._ahead = PrecomputedModulation(transformer, batch_size=recipe.batch_size)
        self._batches: Batches | None = None

    @property
    def image_count(self) -> int:
        """How many images the base generates."""
        return len(self._images.prompts)

    def generate(self, team: SingleProcess, *, stop: Stop, say: Callable[[str], object] = lambda _: None) -> bool:
        """Let the base generate its images, each process its share of them; False if a process was asked to stop.

        They are the same for the same base and seed, so a resumed training has those that it began with. `say` takes a
        line after each image. Raises ValueError if the base generates numbers that are not finite.
        """
        latents = self._generated(team, stop, say)
        if latents is None:
            return False
        if not latents.isfinite().all():
            raise ValueError("the base generates images that are not finite: expected whole weights in its transformer")
        prompts = self._images.prompts
        examples = tuple(
            Example(each, prompt, content=f"neutral {place}")
            for place, (each, prompt) in enumerate(zip(latents, prompts, strict=True))
        )
        self._batches = Batches(
            EncodedDataset(examples, dropped=prompts[0]),
            batch_size=self._recipe.batch_size * team.size,
            draws=self._draws,
            seed=seed_for(self._recipe.seed, "preservation"),
        )
        return True

    def is_due(self, step: int) -> bool:
        """Whether a step, counted from 0, is one of those that preserve: they are spread evenly."""
        return self.steps_before(step + 1) > self.steps_before(step)

    def steps_before(self, step: int) -> int:
        """How many of the first `step` steps preserve."""
        return steps_that_preserve(step, self._recipe.preservation)

    def add_gradients(self, step: int, *, team: SingleProcess) -> Tensor:
        """Those of the mean loss over the batches of a step, which are as large as the training's, as far as there are
        images; as `losses.add_gradients` does."""
        assert self._batches is not None, "images come first"
        count = self._recipe.gradient_accumulation
        first = self.steps_before(step) * count
        losses_of = partial(preservation_losses, layers=self._layers)
        indices = range(first, first + count)
        return add_gradients(self._transformer, self._batches, indices, losses_of, ahead=self._ahead, team=team)

    @torch.no_grad()
    def _generated(self, team: SingleProcess, stop: Stop, say: Callable[[str], object]) -> Tensor | None:
        """Latents [N, C, H, W] fp32 on the CPU; None if a process was asked to stop."""
        images, count = self._images, self.image_count
        pipeline = build_pipeline(self._transformer, images.base)
        side = images.side // TOKEN_PIXELS * PATCH
        latents = torch.zeros(count, self._transformer.config.in_channels // PATCH**2, side, side)
        is_done = torch.zeros(count)
        with suppress(StopRequestedError), without_lora(self._layers):
            for place in range(team.rank, count, team.size):
                latents[place] = self._generate(pipeline, place, stop)
                is_done[place] = 1
                say(f"preservation: image {place + 1} of {count}")
        device = embedder_weight(self._transformer).device
        joined = team.joined(torch.cat([latents.flatten(), is_done]).to(device)).cpu()
        return joined[:-count].view_as(latents) if joined[-count:].all() else None

    def _generate(self, pipeline: FluxPipeline, place: int, stop: Stop) -> Tensor:
        images, transformer = self._images, self._transformer
        return generate_latents(
            pipeline,
            images.prompts[place].to(transformer.device, transformer.dtype),
            side=images.side,
            steps=STEPS,
            guidance=GUIDANCE,
            seed=seed_for(self._recipe.seed, "neutral image", place),
            after_step=stop.raise_if_requested,
        )


@torch.no_grad()
def base_velocity(
    transformer: FluxTransformer2DModel, noisy: Tensor, *, sigmas: Tensor, prompt: Prompt, layers: Sequence[LoraLayer]
) -> Tensor:
    """The velocity [B, C, H, W] that the frozen base predicts, bit for bit, through the layers that have the LoRA."""
    with without_lora(layers):
        return predict_velocity(transformer, noisy, sigmas=sigmas, prompt=prompt, guidance=TRAINING_GUIDANCE)


def preservation_losses(
    transformer: FluxTransformer2DModel, noisy_batch: NoisyBatch, *, layers: Sequence[LoraLayer]
) -> Tensor:
    """The losses [B] of preservation: what is predicted with the LoRA, against what the base predicts without."""
    noisy_batch = noisy_batch.to(embedder_weight(transformer).device)
    batch, sigmas = noisy_batch.batch, noisy_batch.sigmas
    noisy = point_on_path(batch.latents, noisy_batch.noise, sigmas)
    target = base_velocity(transformer, noisy, sigmas=sigmas, prompt=batch.prompt, layers=layers)
    return flow_losses(velocity_with_lora(transformer, noisy, sigmas=sigmas, prompt=batch.prompt), target)
