"""A small random transformer of each family with examples for it, for tests of what training does in every family."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from lora.base.family import Family
from lora.base.prompt import Prompt
from lora.dataset.encoding import EncodedDataset, Example
from lora.training.learning.adapter import add_lora
from lora.training.learning.batches import Batches, NoiseSettings
from lora.training.learning.preservation import NeutralImages, Preservation
from lora.training.recipe.recipe import Recipe
from tests.families import FIRST, KLEIN
from tests.random_klein import klein_example, random_klein_transformer
from tests.tiny import SHIFT, all_layers, tiny_example, tiny_transformer


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomModel:
    """A small random transformer of a family, always the same, and examples for it."""

    family: Family
    base: Path  # whose scheduler generates neutral images
    transformer: Callable[..., ModelMixin]  # frozen
    example: Callable[..., Example]  # by seed

    def lora_transformer(self, *, rank: int = 4) -> ModelMixin:
        """The transformer with a LoRA on all layers that changes nothing yet."""
        transformer = self.transformer()
        add_lora(transformer, layers=all_layers(transformer), rank=rank, seed=0)
        return transformer

    def prompt(self, *, seed: int) -> Prompt:
        """A random prompt."""
        return self.example(seed=seed).prompt

    def outside(self) -> Tensor:
        """1 at the latents outside of a mask, and 0 inside, in whole tokens."""
        patch = self.family.latents.patch
        outside = torch.ones(self.example(seed=0).latents.shape[1:])
        outside[patch : 3 * patch, 2 * patch : 5 * patch] = 0
        return outside

    def masked(self, example: Example, weight: float) -> Example:
        """An example with a mask, and this weight outside of it."""
        return dataclasses.replace(example, weights=1 - self.outside() * (1 - weight))

    def dataset(self, count: int = 4) -> EncodedDataset:
        """Examples of one size."""
        examples = tuple(self.example(seed=index) for index in range(count))
        return EncodedDataset(examples, dropped=self.prompt(seed=999))

    def dataset_with_a_mask(self, weight: float, *, count: int) -> EncodedDataset:
        """The examples of `dataset`, of which the first has a mask."""
        first, *others = self.dataset(count).examples
        return EncodedDataset((self.masked(first, weight), *others), dropped=self.prompt(seed=999))

    def batches(self, recipe: Recipe, dataset: EncodedDataset | None = None) -> Batches:
        """The batches of a training on these examples."""
        dataset, noise = dataset or self.dataset(), self._noise_settings(recipe)
        return Batches(dataset, batch_size=recipe.batch_size, noise_settings=noise, seed=recipe.seed)

    def preservation(self, transformer: ModelMixin, recipe: Recipe, *, processes: int = 1) -> Preservation:
        """Preservation with three random prompts; its images are not generated yet."""
        prompts = tuple(self.prompt(seed=200 + index) for index in range(3))
        negative = self.prompt(seed=300) if self.family.text.has_negative else None
        neutral = NeutralImages(self.base, prompts, negative=negative, side=32)
        return Preservation(transformer, recipe, self._noise_settings(recipe), neutral, processes=processes)

    def _noise_settings(self, recipe: Recipe) -> NoiseSettings:
        patch = self.family.latents.patch
        return NoiseSettings(recipe.sigma_rule, recipe.offset_noise, recipe.caption_dropout_rate, SHIFT, patch)


FIRST_MODEL = RandomModel(family=FIRST.family, base=FIRST.folder, transformer=tiny_transformer, example=tiny_example)
KLEIN_MODEL = RandomModel(
    family=KLEIN.family, base=KLEIN.folder, transformer=random_klein_transformer, example=klein_example
)
MODELS = {model.family.name: model for model in (FIRST_MODEL, KLEIN_MODEL)}
with_each_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
