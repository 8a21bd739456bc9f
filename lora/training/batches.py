"""Examples become endless shuffled batches. Knows no model and no file."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from lora.dataset.encoding import EncodedDataset, Example
from lora.flux.prompt import Prompt

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples of one size."""

    latents: Tensor  # [B, C, H, W]
    prompt: Prompt

    def to(self, device: torch.device) -> "Batch":
        """The same on a device."""
        prompt = Prompt(self.prompt.tokens.to(device), self.prompt.pooled.to(device))
        return Batch(self.latents.to(device), prompt)


def endless_batches(
    dataset: EncodedDataset, *, batch_size: int, caption_dropout: float, generator: torch.Generator
) -> Iterator[Batch]:
    """Epoch after epoch, each example once an epoch, in a new order; a size's last batch may be smaller."""
    while True:
        for examples in _epoch(dataset.examples, batch_size=batch_size, generator=generator):
            yield _batch(examples, dataset.dropped, caption_dropout=caption_dropout, generator=generator)


def _epoch(examples: tuple[Example, ...], *, batch_size: int, generator: torch.Generator) -> Iterator[list[Example]]:
    by_size: dict[torch.Size, list[Example]] = defaultdict(list)
    for example in _shuffled(list(examples), generator):
        by_size[example.latents.shape].append(example)
    batches = [
        group[start : start + batch_size] for group in by_size.values() for start in range(0, len(group), batch_size)
    ]
    yield from _shuffled(batches, generator)


def _shuffled(items: list[Item], generator: torch.Generator) -> list[Item]:
    return [items[index] for index in torch.randperm(len(items), generator=generator).tolist()]


def _batch(examples: list[Example], dropped: Prompt, *, caption_dropout: float, generator: torch.Generator) -> Batch:
    """T5's and CLIP's part of a caption are one record, and so are dropped together."""
    drops = (torch.rand(len(examples), generator=generator) < caption_dropout).tolist()
    prompts = [dropped if drop else example.prompt for example, drop in zip(examples, drops, strict=True)]
    return Batch(torch.stack([example.latents for example in examples]), Prompt.stack(prompts))
