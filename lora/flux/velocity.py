"""Predict the velocity of noisy latents with the transformer."""

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor

from lora.base.prompt import Prompt
from lora.base.transformer import embedder_weight
from lora.flux.latents import image_ids, pack, unpack


def predict_velocity(
    transformer: FluxTransformer2DModel,
    noisy: Tensor,
    *,
    sigmas: Tensor,
    prompt: Prompt,
    guidance: float,
    references: tuple[Tensor, ...] = (),
) -> Tensor:
    """The predicted velocity [B, C, H, W] for noisy latents [B, C, H, W], H and W even, and sigmas [B] in 0..1.

    All tensors are on the transformer's device, and `prompt` is a batch of B. The result has the precision in which the
    transformer computes. FLUX.1 takes no reference images, so `references` is empty.

    The transformer itself multiplies sigma and guidance by 1000 and casts them to its own precision, so they are passed
    unscaled, in fp32. The keywords are those of `FluxPipeline`.
    """
    assert prompt.pooled is not None
    assert not references
    batch, _, height, width = noisy.shape
    device, dtype = noisy.device, embedder_weight(transformer).dtype
    predicted = transformer(
        hidden_states=pack(noisy).to(dtype),
        timestep=sigmas,
        guidance=torch.full((batch,), guidance, device=device, dtype=torch.float32),
        pooled_projections=prompt.pooled.to(dtype),
        encoder_hidden_states=prompt.tokens.to(dtype),
        txt_ids=torch.zeros(prompt.tokens.shape[1], 3, device=device, dtype=dtype),
        img_ids=image_ids(height=height, width=width, device=device, dtype=dtype),
        joint_attention_kwargs=None,
        return_dict=False,
    )[0]
    return unpack(predicted, height=height, width=width)
