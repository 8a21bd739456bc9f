"""Batches of examples, with their noise. Knows no model and no file.

Every batch can be computed from its index alone, so that a training can resume at any step, and each of several
processes can compute its own part of a batch.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from torch import Tensor

from lora.base.modulation import Conditions
from lora.base.prompt import Prompt
from lora.dataset.encoding import EncodedDataset, Example
from lora.training.learning.randomness import generator_for
from lora.training.recipe.sigmas import Shift, SigmaRule

Sizes = tuple[torch.Size, ...]


def sizes_of(example: Example) -> Sizes:
    """What is equal for all examples of a batch: the sizes of the latents and of those of each reference."""
    return example.latents.shape, *(reference.shape for reference in example.references)


@dataclass(frozen=True, slots=True)
class Batch:
    """Latents of one size, and their prompts and references."""

    latents: Tensor  # [B, C, H, W] fp32
    prompt: Prompt
    weights: Tensor | None = None  # [B, H, W] fp32, of the loss at each latent; None if all count the same
    references: tuple[Tensor, ...] = ()  # [B, C, h, w] fp32 each: the first of every image, the second, and so on

    @classmethod
    def of(cls, examples: Sequence[Example], prompts: Sequence[Prompt]) -> "Batch":
        """A batch of examples of equal sizes, each with one of its prompts."""
        latents = torch.stack([example.latents for example in examples])
        references = tuple(map(torch.stack, zip(*(example.references for example in examples), strict=True)))
        every = [example.weights for example in examples]
        if all(weights is None for weights in every):
            return cls(latents, Prompt.stack(list(prompts)), None, references)
        ones = torch.ones(latents.shape[2:])
        weights = torch.stack([ones if weights is None else weights for weights in every])
        return cls(latents, Prompt.stack(list(prompts)), weights, references)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """A batch with every tensor replaced by `change(tensor)`."""
        weights = None if self.weights is None else change(self.weights)
        return Batch(change(self.latents), self.prompt.map(change), weights, tuple(map(change, self.references)))

    def to(self, device: torch.device) -> "Batch":
        """The same on a device. Copies of pinned memory to a GPU are queued, without waiting for it."""
        return self.map(partial(_copied, device=device))


@dataclass(frozen=True, slots=True)
class NoisyBatch:
    """A batch, and the noise and sigmas with which it is mixed."""

    batch: Batch
    noise: Tensor  # [B, C, H, W] fp32
    sigmas: Tensor  # [B] fp32

    def to(self, device: torch.device) -> "NoisyBatch":
        """The same on a device. Copies of pinned memory to a GPU are queued, without waiting for it."""
        return NoisyBatch(self.batch.to(device), _copied(self.noise, device), _copied(self.sigmas, device))

    def pinned(self) -> "NoisyBatch":
        """The same in pinned memory."""
        batch = self.batch.map(Tensor.pin_memory)
        return NoisyBatch(batch, self.noise.pin_memory(), self.sigmas.pin_memory())

    @property
    def conditions(self) -> Conditions:
        """What its modulation depends on."""
        return Conditions(self.sigmas, self.batch.prompt.pooled)


@dataclass(frozen=True, slots=True)
class NoiseSettings:
    """The distributions from which each sample's sigma, noise and caption dropout are drawn."""

    sigma_rule: SigmaRule
    offset_noise: float  # standard deviation of the offset that is added to whole channels of the noise
    caption_dropout: float  # probability
    shift: Shift
    patch: int  # latent rows and columns that one token holds


@dataclass(frozen=True, slots=True)
class _SampleStart:
    """A sample without its noise, and the generator from which the noise is drawn next."""

    prompt: Prompt
    sigma: Tensor  # [1]
    generator: torch.Generator


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A part of a batch that was computed in advance."""

    index: int
    part: slice
    noisy_batch: NoisyBatch | None


class Batches:
    """The batches of a training by index: each example once per epoch, or as often as it is repeated, in a new order in
    each epoch.

    A batch has examples of one size, with references of one size each; the last batch of a size may be smaller.
    """

    def __init__(self, dataset: EncodedDataset, *, batch_size: int, noise_settings: NoiseSettings, seed: int) -> None:
        self._dataset, self._batch_size, self._noise_settings, self._seed = dataset, batch_size, noise_settings, seed
        self._epoch = lru_cache(maxsize=1)(self._ordered)
        self._per_epoch = len(self._ordered(0))
        self._prepared: _Prepared | None = None

    def examples(self, index: int) -> list[Example]:
        """The examples of a batch."""
        epoch, position = divmod(index, self._per_epoch)
        return self._epoch(epoch)[position]

    def noisy_batch(self, index: int, *, part: slice = slice(None)) -> NoisyBatch | None:
        """A batch, or a part of it, with noise; None if the part is empty."""
        prepared, self._prepared = self._prepared, None
        if prepared is not None and (prepared.index, prepared.part) == (index, part):
            return prepared.noisy_batch
        return self._make_batch(index, part)

    def prepare(self, index: int, *, part: slice = slice(None)) -> None:
        """Compute a batch in advance. The next call of `noisy_batch` returns it if it is for the same batch and part,
        and drops it otherwise."""
        self._prepared = _Prepared(index, part, self._make_batch(index, part))

    def _make_batch(self, index: int, part: slice) -> NoisyBatch | None:
        numbered = list(enumerate(self.examples(index)))[part]
        samples = [self._sample(example, index, position) for position, example in numbered]
        if not samples:
            return None
        prompts, noise, sigmas = zip(*samples, strict=True)
        batch = Batch.of([example for _, example in numbered], prompts)
        made = NoisyBatch(batch, torch.stack(noise), torch.cat(sigmas))
        return made.pinned() if torch.cuda.is_available() else made

    def conditions(self, index: int, *, part: slice = slice(None)) -> Conditions | None:
        """The sigmas and pooled prompts of `noisy_batch`, without drawing noise, which takes time; None if the part is
        empty."""
        numbered = list(enumerate(self.examples(index)))[part]
        starts = [self._begin_sample(example, index, position) for position, example in numbered]
        if not starts:
            return None
        return Conditions(torch.cat([each.sigma for each in starts]), Prompt.stack([e.prompt for e in starts]).pooled)

    def mean_sigma(self, indices: Iterable[int]) -> float:
        """The mean sigma of all samples of some batches."""
        conditions = [each for index in indices if (each := self.conditions(index)) is not None]
        return torch.cat([each.sigmas for each in conditions]).mean().item()

    def _sample(self, example: Example, index: int, position: int) -> tuple[Prompt, Tensor, Tensor]:
        """The prompt, noise [C, H, W] and sigma [1] of a sample."""
        start = self._begin_sample(example, index, position)
        offset = torch.randn(len(example.latents), 1, 1, generator=start.generator) * self._noise_settings.offset_noise
        noise = torch.randn(example.latents.shape, generator=start.generator) + offset
        return start.prompt, noise, start.sigma

    def _begin_sample(self, example: Example, index: int, position: int) -> _SampleStart:
        """Draw a sample's caption dropout and sigma. The T5 and CLIP embeddings of a caption are dropped together, as
        they are one record."""
        settings, generator = self._noise_settings, generator_for(self._seed, "sample", index, position)
        is_dropped = torch.rand(1, generator=generator).item() < settings.caption_dropout
        _, height, width = example.latents.shape
        mu = settings.shift.mu(height // settings.patch * (width // settings.patch))
        sigma = settings.sigma_rule.sample(1, mu=mu, generator=generator)
        prompt = self._dataset.dropped if is_dropped else self._prompt(example, index, position)
        return _SampleStart(prompt, sigma, generator)

    def _prompt(self, example: Example, index: int, position: int) -> Prompt:
        """One of an example's prompts, drawn apart from everything else, so that one prompt alone changes nothing."""
        if not example.other_prompts:
            return example.prompt
        every, generator = (
            (example.prompt, *example.other_prompts),
            generator_for(self._seed, "caption", index, position),
        )
        return every[int(torch.randint(len(every), (1,), generator=generator))]

    def _ordered(self, epoch: int) -> list[list[Example]]:
        generator, size = generator_for(self._seed, "order", epoch), self._batch_size
        examples = [example for example in self._dataset.examples for _ in range(example.repeats)]
        by_size: dict[Sizes, list[Example]] = defaultdict(list)
        for position in torch.randperm(len(examples), generator=generator).tolist():
            by_size[sizes_of(examples[position])].append(examples[position])
        batches = [group[start : start + size] for group in by_size.values() for start in range(0, len(group), size)]
        return [batches[position] for position in torch.randperm(len(batches), generator=generator).tolist()]


def _copied(tensor: Tensor, device: torch.device) -> Tensor:
    # to the host it must not be queued: the host would read the copy too early
    return tensor.to(device, non_blocking=device.type != "cpu")
