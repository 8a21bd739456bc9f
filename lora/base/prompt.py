"""An encoded prompt, as the transformer of any family takes it. Encodes nothing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Prompt:
    """One encoded prompt, or a batch of them with a leading dimension B."""

    tokens: Tensor  # [(B,) T, D] from the text encoder; T is the base's text length, 512 for FLUX.1-dev
    pooled: Tensor | None  # [(B,) P] from CLIP; None for a family without it

    @staticmethod
    def stack(prompts: list["Prompt"]) -> "Prompt":
        """Stack prompts of one base into a batch, in the given order."""
        pooled = [prompt.pooled for prompt in prompts if prompt.pooled is not None]
        return Prompt(torch.stack([prompt.tokens for prompt in prompts]), torch.stack(pooled) if pooled else None)

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> "Prompt":
        """Move the prompt to a device, and to a precision if one is given."""
        return self.map(lambda each: each.to(device, dtype))

    def map(self, change: Callable[[Tensor], Tensor]) -> "Prompt":
        """The prompt with each of its tensors changed by a function."""
        return Prompt(change(self.tokens), None if self.pooled is None else change(self.pooled))

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name, for a file."""
        return {"tokens": self.tokens} | ({} if self.pooled is None else {"pooled": self.pooled})

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Prompt":
        """The prompt with these `tensors`."""
        return cls(tensors["tokens"], tensors.get("pooled"))
