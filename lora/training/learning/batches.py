"""Examples become batches with their noise. Knows no model and no file, and remembers nothing: the batch of any step
can be asked for, so that a training goes on where it stopped, and each of several processes takes its share."""

from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from lora.dataset.encoding import EncodedDataset, Example
from lora.flux.latents import PATCH
from lora.flux.modulation import Conditions
from lora.flux.prompt import Prompt
from lora.training.learning.randomness import generator_for
from lora.training.recipe.sigmas import Shift, SigmaRule


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples of one size."""

    latents: Tensor  # [B, C, H, W] fp32
    prompt: Prompt

    def to(self, device: torch.device) -> "Batch":
        """The same on a device."""
        return Batch(self.latents.to(device), self.prompt.to(device))


@dataclass(frozen=True, slots=True)
class NoisyBatch:
    """A batch, and what it is mixed with."""

    batch: Batch
    noise: Tensor  # [B, C, H, W] fp32
    sigmas: Tensor  # [B] fp32

    def to(self, device: torch.device) -> "NoisyBatch":
        """The same on a device."""
        return NoisyBatch(self.batch.to(device), self.noise.to(device), self.sigmas.to(device))


@dataclass(frozen=True, slots=True)
class Draws:
    """What is drawn at random for each sample."""

    sigma_rule: SigmaRule
    offset_noise: float  # standard deviation of what is added to whole channels of the noise
    caption_dropout: float
    shift: Shift


@dataclass(frozen=True, slots=True)
class _Begun:
    """A sample before its noise is drawn."""

    prompt: Prompt
    sigma: Tensor  # [1]
    generator: torch.Generator  # of its noise


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A part of a batch that is likely to be asked for next."""

    index: int
    part: slice
    noisy_batch: NoisyBatch | None


class Batches:
    """Batch `index` of a training, for any index: each example once an epoch, in a new order each epoch.

    The last batch of a size may be smaller.
    """

    def __init__(self, dataset: EncodedDataset, *, batch_size: int, draws: Draws, seed: int) -> None:
        self._dataset, self._batch_size, self._draws, self._seed = dataset, batch_size, draws, seed
        self._epoch = lru_cache(maxsize=1)(self._ordered)
        self._per_epoch = len(self._ordered(0))
        self._prepared: _Prepared | None = None

    def examples(self, index: int) -> list[Example]:
        """The examples of a batch."""
        epoch, place = divmod(index, self._per_epoch)
        return self._epoch(epoch)[place]

    def noisy_batch(self, index: int, *, part: slice = slice(None)) -> NoisyBatch | None:
        """A batch, or a part of it; None if the part is empty."""
        prepared, self._prepared = self._prepared, None
        if prepared is not None and (prepared.index, prepared.part) == (index, part):
            return prepared.noisy_batch
        return self._noised(index, part)

    def prepare(self, index: int, *, part: slice = slice(None)) -> None:
        """Draw the noise of a batch while there is time for it; the next question for a batch has it, if it is for
        this."""
        self._prepared = _Prepared(index, part, self._noised(index, part))

    def _noised(self, index: int, part: slice) -> NoisyBatch | None:
        numbered = list(enumerate(self.examples(index)))[part]
        samples = [self._sample(example, index, place) for place, example in numbered]
        if not samples:
            return None
        latents = torch.stack([example.latents for _, example in numbered])
        prompts, noise, sigmas = zip(*samples, strict=True)
        return NoisyBatch(Batch(latents, Prompt.stack(list(prompts))), torch.stack(noise), torch.cat(sigmas))

    def conditions(self, index: int, *, part: slice = slice(None)) -> Conditions | None:
        """What `noisy_batch` has beside noise, which takes time to draw, and what single tokens are told."""
        begun = [self._begun(example, index, place) for place, example in list(enumerate(self.examples(index)))[part]]
        if not begun:
            return None
        return Conditions(torch.cat([each.sigma for each in begun]), torch.stack([e.prompt.pooled for e in begun]))

    def _sample(self, example: Example, index: int, place: int) -> tuple[Prompt, Tensor, Tensor]:
        """Prompt, noise [C, H, W] and sigma [1]."""
        begun = self._begun(example, index, place)
        offset = torch.randn(len(example.latents), 1, 1, generator=begun.generator) * self._draws.offset_noise
        noise = torch.randn(example.latents.shape, generator=begun.generator) + offset
        return begun.prompt, noise, begun.sigma

    def _begun(self, example: Example, index: int, place: int) -> _Begun:
        """T5's and CLIP's part of a caption are one record, and so are dropped together."""
        draws, generator = self._draws, generator_for(self._seed, "sample", index, place)
        is_dropped = torch.rand(1, generator=generator).item() < draws.caption_dropout
        _, height, width = example.latents.shape
        mu = draws.shift.mu(height // PATCH * (width // PATCH))
        sigma = draws.sigma_rule.sample(1, mu=mu, generator=generator)
        return _Begun(self._dataset.dropped if is_dropped else example.prompt, sigma, generator)

    def _ordered(self, epoch: int) -> list[list[Example]]:
        generator, size = generator_for(self._seed, "order", epoch), self._batch_size
        examples = self._dataset.examples
        by_size: dict[torch.Size, list[Example]] = defaultdict(list)
        for place in torch.randperm(len(examples), generator=generator).tolist():
            by_size[examples[place].latents.shape].append(examples[place])
        batches = [group[start : start + size] for group in by_size.values() for start in range(0, len(group), size)]
        return [batches[place] for place in torch.randperm(len(batches), generator=generator).tolist()]
