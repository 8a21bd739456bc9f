"""The inputs of the benchmark of the training step, and our own training loop."""

from dataclasses import dataclass
from typing import Protocol

from diffusers.models.modeling_utils import ModelMixin

from bench.plain_dreambooth import EPSILON, LEARNING_RATE, MAX_GRAD_NORM, WEIGHT_DECAY
from lora.dataset.encoding import EncodedDataset
from lora.training.learning.batches import Batches, NoiseSettings
from lora.training.learning.data_parallel import SingleProcess
from lora.training.learning.loop import Step, take_step
from lora.training.learning.preservation import Preservation
from lora.training.learning.state import TrainingState
from lora.training.recipe.recipe import Recipe
from lora.training.recipe.sigmas import Shift, SigmaRule

RANK, SEED = 16, 0
SHIFT = Shift(base_tokens=256, max_tokens=4096, base_mu=0.5, max_mu=1.15)  # of FLUX.1-dev's scheduler


@dataclass(frozen=True, slots=True)
class Inputs:
    """Images of one size."""

    dataset: EncodedDataset
    batch_size: int
    patch: int  # of latents in a token; see lora/base/latents.py

    @property
    def recipe(self) -> Recipe:
        """The script's optimizer, and sigmas as both contenders sample them."""
        return Recipe(
            lora_type="general",
            steps=1000,
            learning_rate=LEARNING_RATE,
            batch_size=self.batch_size,
            gradient_accumulation=1,
            lora_rank=RANK,
            sigma_rule=SigmaRule(0.0, 1.0, 0.0),
            offset_noise=0.0,
            caption_dropout_rate=0.0,
            drops_to_trigger=True,
            preservation=0.0,
            preservation_weight=1.0,
            views=1,
            optimizer="adamw",
            weight_decay=WEIGHT_DECAY,
            epsilon=EPSILON,
            max_grad_norm=MAX_GRAD_NORM,
            lr_scheduler="constant",
            ema_decay=0.99,
            ema_warms_up=True,
            seed=SEED,
        )

    @property
    def noise_settings(self) -> NoiseSettings:
        """Those of the recipe."""
        recipe = self.recipe
        return NoiseSettings(recipe.sigma_rule, recipe.offset_noise, recipe.caption_dropout_rate, SHIFT, self.patch)

    @property
    def batches(self) -> Batches:
        """Batches with their noise and sigmas."""
        return Batches(
            self.dataset, batch_size=self.batch_size, noise_settings=self.noise_settings, seed=self.recipe.seed
        )


class Loop(Protocol):
    """A training loop."""

    def begin(self, inputs: Inputs) -> float:
        """Start again and take the first of `inputs.batches`, with its noise and sigmas; returns the loss."""

    def step(self) -> None:
        """Take the next step."""


class OurLoop:
    """Our training loop. A step includes updating the average of the weights (EMA), which the script does not have."""

    def __init__(self, transformer: ModelMixin) -> None:
        self._transformer = transformer
        self._preservation: Preservation | None = None

    def begin(self, inputs: Inputs) -> float:
        """Start again and take the first step."""
        self._recipe, self._batches = inputs.recipe, inputs.batches
        self._state = TrainingState(self._transformer, self._recipe)
        return self._take_step().loss

    def step(self) -> None:
        """Take the next step."""
        self._take_step()

    def _take_step(self) -> Step:
        return take_step(
            self._transformer,
            self._state,
            self._batches,
            self._recipe,
            process_group=SingleProcess(),
            preservation=self._preservation,
        )
