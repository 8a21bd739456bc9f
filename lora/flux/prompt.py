"""What the transformer is told about a picture: text, encoded."""

from dataclasses import dataclass

import torch
from diffusers import FluxPipeline
from torch import Tensor

TEXT_TOKENS = 512  # as FLUX.1-dev is sampled; padding takes part in attention, so training needs the same


@dataclass(frozen=True, slots=True)
class Prompt:
    """One encoded text, or a batch of them with a leading dimension B."""

    tokens: Tensor  # [(B,) 512, D] from T5
    pooled: Tensor  # [(B,) P] from CLIP

    @staticmethod
    def stack(prompts: list["Prompt"]) -> "Prompt":
        """A batch, in the order given."""
        return Prompt(torch.stack([p.tokens for p in prompts]), torch.stack([p.pooled for p in prompts]))


@torch.no_grad()
def encode_prompt(encoders: FluxPipeline, text: str) -> Prompt:
    """Encode one text as the pipeline does when it draws: T5 padded to 512 tokens without a mask, CLIP pooled."""
    tokens, pooled, _ = encoders.encode_prompt(prompt=text, prompt_2=None, max_sequence_length=TEXT_TOKENS)
    return Prompt(tokens[0], pooled[0])
