"""Preservation in the ways that the learning benchmark compares: what is asked, and what the answer should be."""

from dataclasses import dataclass, replace

from diffusers import FluxTransformer2DModel
from torch import Tensor

from lora.dataset.encoding import Example
from lora.flux.prompt import Prompt
from lora.training.learning.batches import NoiseSettings, NoisyBatch
from lora.training.learning.data_parallel import SingleProcess
from lora.training.learning.losses import training_losses
from lora.training.learning.preservation import NeutralImages, Preservation, preservation_losses
from lora.training.progress import Log
from lora.training.recipe.recipe import Recipe
from lora.training.stop import Stop, Termination
from weights.bases import WEIGHTS

BASE = WEIGHTS / "tiny-flux"
SIDE = 128  # pixels of the images that the base generates


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What an arm asks in its preserving steps."""

    word: str | None = None  # in place of the trigger word, of the training images; None asks about neutral images
    images_are_target: bool = False  # the images themselves, as in DreamBooth, or the prediction of the base
    weight: float = 1.0  # of this loss
    logit_mean: float | None = None  # of sigma; None is that of the training


class AskingPreservation(Preservation):
    """Preservation that asks a question."""

    def __init__(
        self,
        transformer: FluxTransformer2DModel,
        recipe: Recipe,
        noise_settings: NoiseSettings,
        images: NeutralImages,
        question: Question,
    ) -> None:
        if question.logit_mean is not None:
            rule = replace(recipe.sigma_rule, logit_mean=question.logit_mean)
            noise_settings = replace(noise_settings, sigma_rule=rule)
        super().__init__(transformer, recipe, noise_settings, images)
        self._question = question

    def losses(self, transformer: FluxTransformer2DModel, noisy_batch: NoisyBatch) -> Tensor:
        """The losses [B], by their weight."""
        if self._question.images_are_target:
            return self._question.weight * training_losses(transformer, noisy_batch)
        return self._question.weight * preservation_losses(transformer, noisy_batch, layers=self._layers)


def preservation_of(
    transformer: FluxTransformer2DModel,
    recipe: Recipe,
    noise_settings: NoiseSettings,
    question: Question | None,
    neutral: tuple[Prompt, ...],
    asked: tuple[Example, ...],
) -> Preservation | None:
    """The preservation of an arm, ready for its steps; None without it. `asked` are examples to ask about in place of
    images that the base generates."""
    if not recipe.preservation:
        return None
    images = NeutralImages(BASE, neutral, SIDE)
    found = AskingPreservation(transformer, recipe, noise_settings, images, question or Question())
    if asked:
        found.use(asked, SingleProcess())
    else:
        found.generate(SingleProcess(), stop=Stop(Log(lambda *_: None, None), Termination(), minutes=None))
    return found
