"""Preservation in the ways that the learning benchmark compares: what is asked, and what the answer should be."""

from dataclasses import dataclass, replace

from diffusers import FluxTransformer2DModel
from torch import Tensor

from lora.base.prompt import Prompt
from lora.dataset.encoding import Example
from lora.training.learning.batches import NoiseSettings, NoisyBatch
from lora.training.learning.data_parallel import SingleProcess
from lora.training.learning.losses import training_losses
from lora.training.learning.preservation import NeutralImages, Preservation
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
    logit_mean: float | None = None  # of sigma; None is that of the training


ASKED_BY_A_TRAINING = Question()


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
        super().__init__(transformer, recipe, noise_settings, images, processes=1)
        self._question = question

    def ask_about(self, examples: tuple[Example, ...]) -> None:
        """Ask about these examples, in place of images that the base generates."""
        self._batches, self._is_generated = self._batches_of(examples), True

    def losses(self, transformer: FluxTransformer2DModel, noisy_batch: NoisyBatch) -> Tensor:
        """The losses [B], times their weight."""
        if self._question.images_are_target:
            return self._recipe.preservation_weight * training_losses(transformer, noisy_batch)
        return super().losses(transformer, noisy_batch)


def preservation_of(
    transformer: FluxTransformer2DModel,
    recipe: Recipe,
    noise_settings: NoiseSettings,
    question: Question,
    neutral: tuple[Prompt, ...],
    asked: tuple[Example, ...],
) -> Preservation | None:
    """The preservation of an arm, ready for its steps; None without it. `asked` are the examples to ask about, if the
    question is not about neutral images."""
    if not recipe.preservation:
        return None
    found = AskingPreservation(transformer, recipe, noise_settings, NeutralImages(BASE, neutral, None, SIDE), question)
    if asked:
        found.ask_about(asked)
    else:
        stop = Stop(Log(lambda *_: None, None), Termination(), minutes=None)
        found.generate(SingleProcess(), steps=range(recipe.steps), stop=stop)
    return found
