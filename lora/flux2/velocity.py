"""Predict the velocity of noisy latents with the transformer."""

import torch
from diffusers import Flux2Transformer2DModel
from torch import Tensor

from lora.base.prompt import Prompt
from lora.base.transformer import embedder_weight
from lora.flux2.latents import pack, unpack


def predict_velocity(
    transformer: Flux2Transformer2DModel,
    noisy: Tensor,
    *,
    sigmas: Tensor,
    prompt: Prompt,
    guidance: float,  # noqa: ARG001 (klein has no guidance embedding: it learns the velocity that guidance starts from)
) -> Tensor:
    """The predicted velocity [B, C, H, W] for noisy latents [B, C, H, W] and sigmas [B] in 0..1.

    All tensors are on the transformer's device, and `prompt` is a batch of B. The result has the precision in which the
    transformer computes. The transformer itself multiplies sigma by 1000 and casts it to its own precision, so it is
    passed unscaled, in fp32. The keywords are those of `Flux2KleinPipeline`.
    """
    batch, _, height, width = noisy.shape
    dtype = embedder_weight(transformer).dtype
    predicted = transformer(
        hidden_states=pack(noisy).to(dtype),
        timestep=sigmas,
        guidance=None,
        encoder_hidden_states=prompt.tokens.to(dtype),
        txt_ids=positions(batch, text=prompt.tokens.shape[1], device=noisy.device),
        img_ids=positions(batch, height=height, width=width, device=noisy.device),
        joint_attention_kwargs=None,
        return_dict=False,
    )[0]
    return unpack(predicted, height=height, width=width)


def positions(batch: int, *, height: int = 1, width: int = 1, text: int = 1, device: torch.device) -> Tensor:
    """The position of each token on the four axes image, row, column and text, [B, N, 4] int64: of an image of `height`
    x `width` tokens, or of `text` tokens."""
    axes = [torch.arange(length, device=device) for length in (1, height, width, text)]
    return torch.cartesian_prod(*axes).expand(batch, -1, -1)
