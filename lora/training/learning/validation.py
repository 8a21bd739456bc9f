"""How well does it do on pictures that it is not trained on? Losses at noise and sigmas that are always the same.

A training's own loss says little: from step to step it differs by sigma above all. At the same noise and the same
sigmas, two losses differ by the weights alone, and can be compared pair by pair.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from diffusers import FluxTransformer2DModel

from lora.dataset.encoding import EncodedDataset, Example
from lora.flux.prompt import Prompt
from lora.training.learning.batches import Batch
from lora.training.learning.losses import loss_at
from lora.training.learning.randomness import generator_for

LEAST_IMAGES, SHARE_HELD_OUT, MOST_HELD_OUT = 12, 0.1, 4
SIGMAS, NOISES = (0.1, 0.3, 0.5, 0.7, 0.9), 2
SEED = 1234  # of the noise: the same for every training
POINTS = (0.4, 0.55, 0.7, 0.85, 1.0)  # of the training, at which it is judged; before the first, little is learned
CLEAR_ERRORS = 2.0  # standard errors beyond which a difference is no accident


class DatasetSplit(NamedTuple):
    """A data set of which some images are kept back."""

    trained: EncodedDataset
    held_out: tuple[Example, ...]  # each image once, at its largest size


@dataclass(frozen=True, slots=True)
class Judgement:
    """The losses at one step, in an order that is always the same."""

    step: int
    losses: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over images, sigmas and noise; infinite if any is not finite."""
        mean = sum(self.losses) / len(self.losses)
        return mean if math.isfinite(mean) else math.inf

    def is_clearly_worse_than(self, other: "Judgement") -> bool:
        """Whether it is worse by more than two standard errors of the differences, or not finite."""
        if not math.isfinite(self.mean):
            return math.isfinite(other.mean)
        falls = torch.tensor([a - b for a, b in zip(self.losses, other.losses, strict=True)], dtype=torch.float64)
        return falls.mean().item() > CLEAR_ERRORS * falls.std().item() / math.sqrt(len(falls))


def hold_out(dataset: EncodedDataset, *, seed: int) -> DatasetSplit:
    """Keep back a tenth of twelve images or more, at most four; with fewer, none. Copies of an image go with it."""
    contents = sorted({example.content for example in dataset.examples})
    count = count_held_out(len(contents))
    if not count:
        return DatasetSplit(dataset, ())
    order = torch.randperm(len(contents), generator=generator_for(seed, "held out")).tolist()
    kept_back = {contents[place] for place in order[:count]}
    trained = tuple(example for example in dataset.examples if example.content not in kept_back)
    largest: dict[str, Example] = {}
    for example in dataset.examples:
        is_larger = example.content not in largest or example.latents.numel() > largest[example.content].latents.numel()
        if example.content in kept_back and is_larger:
            largest[example.content] = example
    return DatasetSplit(replace(dataset, examples=trained), tuple(largest[content] for content in sorted(largest)))


def count_held_out(images: int) -> int:
    """Of so many images that differ."""
    return min(round(SHARE_HELD_OUT * images), MOST_HELD_OUT) if images >= LEAST_IMAGES else 0


@torch.no_grad()
def judge(transformer: FluxTransformer2DModel, held_out: tuple[Example, ...], *, step: int) -> Judgement:
    """The loss of each held out image at each sigma and noise; draws from no generator but its own."""
    losses = []
    for place, example in enumerate(held_out):
        batch = Batch(example.latents[None], Prompt.stack([example.prompt]))
        for number, sigma in enumerate(SIGMAS * NOISES):
            noise = torch.randn(batch.latents.shape, generator=generator_for(SEED, "validation", place, number))
            losses.append(loss_at(transformer, batch, noise=noise, sigmas=torch.tensor([sigma])).item())
    return Judgement(step, tuple(losses))


@dataclass(frozen=True, slots=True)
class CheckpointSelection:
    """Whose weights are given away."""

    step: int
    why: str


def verdict(judgements: list[Judgement], *, last: int) -> CheckpointSelection:
    """The weights of step `last`, unless those of an earlier judged step are better beyond accident."""
    trained = [judgement for judgement in judgements if judgement.step]
    if not judgements:
        return CheckpointSelection(last, "the last, as no images were held out to compare it on")
    if not trained or trained[-1].step != last:
        return CheckpointSelection(last, "the last, which was not judged on the held out images")
    best = min(trained, key=lambda judgement: judgement.mean)
    if best.step == last:
        return CheckpointSelection(last, "the last, which does best on the held out images")
    losses = f"{best.mean:.4f} at step {best.step}, {trained[-1].mean:.4f} at step {last}"
    if trained[-1].is_clearly_worse_than(best):
        return CheckpointSelection(best.step, f"the best on the held out images: loss {losses}")
    return CheckpointSelection(
        last, f"the last, as no earlier one is better beyond {CLEAR_ERRORS:g} standard errors: loss {losses}"
    )


def validation_steps(steps: int) -> frozenset[int]:
    """The steps after which a training of so many is judged, the beginning among them."""
    return frozenset({0, *(max(round(point * steps), 1) for point in POINTS)})
