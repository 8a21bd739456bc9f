"""Validation: the loss on held-out images, at fixed noise and sigmas, and the selection of a checkpoint by it.

The training loss says little, as it varies from step to step mostly with sigma. At fixed noise and sigmas, two losses
differ only because of the weights, and can be compared in pairs.
"""

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import Any, NamedTuple

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from lora.base.modulation import Conditions
from lora.dataset.encoding import EncodedDataset, Example
from lora.families.registry import precomputed_modulation
from lora.training.learning.batches import Batch, NoisyBatch, Sizes, sizes_of
from lora.training.learning.forward_passes import as_in_a_step
from lora.training.learning.held_out import held_out_contents
from lora.training.learning.losses import TRAINING_GUIDANCE, training_losses
from lora.training.learning.randomness import generator_for

# All our choice.
SIGMAS = (0.1, 0.3, 0.5, 0.7, 0.9)
LOSSES = 10  # so many at each validation, however many images: six validations take less than 5 % of 1,000 steps
SEED = 1234  # of the noise, the same for every training
VALIDATION_POINTS = (0.4, 0.55, 0.7, 0.85, 1.0)  # shares of the steps; before the first, little is learned
CLEAR_ERRORS = 2.0  # a difference of more standard errors than this is significant


class DatasetSplit(NamedTuple):
    """A data set, split into examples to train on and held-out examples for validation."""

    train: EncodedDataset
    held_out: tuple[Example, ...]  # each image once, at the middle one of its sizes


@dataclass(frozen=True, slots=True)
class ValidationResult:
    """The losses on the held-out images at one step, in a fixed order."""

    step: int
    losses: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean over images, sigmas and noise; infinite if any loss is not finite."""
        mean = sum(self.losses) / len(self.losses)
        return mean if math.isfinite(mean) else math.inf

    def is_clearly_worse_than(self, other: "ValidationResult") -> bool:
        """Whether its mean is worse by more than two standard errors of the paired differences, or not finite."""
        if not math.isfinite(self.mean):
            return math.isfinite(other.mean)
        excess = torch.tensor([a - b for a, b in zip(self.losses, other.losses, strict=True)], dtype=torch.float64)
        return excess.mean().item() > CLEAR_ERRORS * excess.std().item() / math.sqrt(len(excess))


def hold_out(dataset: EncodedDataset, *, seed: int) -> DatasetSplit:
    """Hold out a tenth of twelve or more images, at most four, and none of fewer. Copies of an image stay together.

    Of an image's sizes the middle one is validated, or the smaller of the two in the middle: at the largest, validation
    would take nearly twice as long.
    """
    held_out = held_out_contents({example.content for example in dataset.examples}, seed=seed)
    if not held_out:
        return DatasetSplit(dataset, ())
    train = tuple(example for example in dataset.examples if example.content not in held_out)
    by_image: dict[str, list[Example]] = defaultdict(list)
    for example in dataset.examples:
        if example.content in held_out:
            by_image[example.content].append(example)
    middle = tuple(_of_middle_size(by_image[content]) for content in sorted(by_image))
    return DatasetSplit(replace(dataset, examples=train), middle)


def _of_middle_size(examples: list[Example]) -> Example:
    """One example of the image's middle size; copies of an image have the same sizes."""
    first_of_size: dict[int, Example] = {}
    for example in examples:
        first_of_size.setdefault(example.latents.numel(), example)
    sizes = sorted(first_of_size)
    return first_of_size[sizes[(len(sizes) - 1) // 2]]


@dataclass(frozen=True, slots=True)
class _Point:
    """A held-out image, and the sigma and noise at which its loss is computed."""

    number: int  # in the order of the result
    example: Example
    sigma: float
    noise: Tensor  # [C, H, W] fp32


@torch.no_grad()
def validate(transformer: ModelMixin, held_out: tuple[Example, ...], *, step: int, batch_size: int) -> ValidationResult:
    """`LOSSES` losses, spread evenly over the held-out images and the sigmas, each with its own noise.

    Images of one size are computed in batches of at most `batch_size`, as in a step, so that blocks that are compiled
    for steps are not compiled again. Uses its own random generators only, and reads no result before the last pass. The
    examples are on the CPU; each batch is moved to the transformer's device in its turn.
    """
    batches = list(_batches(_points(held_out), batch_size))
    noisy_batches = [_noisy_batch(points) for points in batches]
    modulation = precomputed_modulation(transformer, batch_size=batch_size)

    def conditions_of(number: int) -> Conditions | None:
        return noisy_batches[number].conditions if number < len(noisy_batches) else None

    losses = []
    with as_in_a_step(transformer):
        for number, noisy_batch in enumerate(noisy_batches):
            with modulation.precomputed(number, conditions_of, guidance=TRAINING_GUIDANCE):
                losses.append(training_losses(transformer, noisy_batch))
    numbers = [point.number for points in batches for point in points]
    by_number = dict(zip(numbers, torch.cat(losses).tolist(), strict=True))
    return ValidationResult(step, tuple(by_number[number] for number in sorted(by_number)))


def _points(held_out: tuple[Example, ...]) -> list[_Point]:
    """With one image each sigma is used twice, with different noise; otherwise no image and sigma repeat."""
    pairs = islice(zip(cycle(enumerate(held_out)), cycle(SIGMAS), strict=False), LOSSES)
    return [
        _Point(number, example, sigma, _noise(example, index, number))
        for number, ((index, example), sigma) in enumerate(pairs)
    ]


def _noise(example: Example, index: int, number: int) -> Tensor:
    return torch.randn(example.latents.shape, generator=generator_for(SEED, "validation", index, number))


def _batches(points: list[_Point], batch_size: int) -> Iterator[list[_Point]]:
    """The points by the size of their images, in batches of at most `batch_size` that are as equal as possible."""
    by_size: dict[Sizes, list[_Point]] = defaultdict(list)
    for point in points:
        by_size[sizes_of(point.example)].append(point)
    for same in by_size.values():
        count = math.ceil(len(same) / batch_size)
        yield from (same[first::count] for first in range(count))


def _noisy_batch(points: list[_Point]) -> NoisyBatch:
    examples = [point.example for point in points]
    batch = Batch.of(examples, [each.prompt for each in examples])
    return NoisyBatch(batch, torch.stack([e.noise for e in points]), torch.tensor([e.sigma for e in points]))


def read_results(saved: list[Any]) -> list[ValidationResult]:
    """The results that a checkpoint holds as [step, losses]; without those of another number of
    losses, as earlier versions had, which cannot be compared."""
    return [ValidationResult(step, tuple(losses)) for step, losses in saved if len(losses) == LOSSES]


@dataclass(frozen=True, slots=True)
class CheckpointSelection:
    """The step whose weights are exported, and the reason."""

    step: int
    why: str


def select_checkpoint(validation_results: list[ValidationResult], *, last: int) -> CheckpointSelection:
    """Select the weights of step `last`, unless those of an earlier validated step are significantly better."""
    trained = [result for result in validation_results if result.step]
    if not validation_results:
        return CheckpointSelection(last, "the last, as no images were held out to compare it on")
    if not trained or trained[-1].step != last:
        return CheckpointSelection(last, "the last, which was not validated")
    best = min(trained, key=lambda result: result.mean)
    if best.step == last:
        return CheckpointSelection(last, "the last, which does best on the held out images")
    losses = f"{best.mean:.4f} at step {best.step}, {trained[-1].mean:.4f} at step {last}"
    if trained[-1].is_clearly_worse_than(best):
        return CheckpointSelection(best.step, f"the best on the held out images: loss {losses}")
    return CheckpointSelection(
        last, f"the last, as no earlier one is better beyond {CLEAR_ERRORS:g} standard errors: loss {losses}"
    )


def validation_steps(steps: int) -> frozenset[int]:
    """The steps after which a training of `steps` steps is validated, including 0, before the first step."""
    return frozenset({0, *(max(round(point * steps), 1) for point in VALIDATION_POINTS)})
