"""The input of FLUX.1's modulation layers."""

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor
from torch.nn import functional

from lora.base.modulation import Conditions
from lora.base.transformer import embedder_weight


def modulation_input(transformer: FluxTransformer2DModel, conditions: Conditions, guidance: float) -> Tensor:
    """The input [B, width] of every modulation layer, as `FluxTransformer2DModel.forward` and `AdaLayerNormZero` of
    diffusers compute it."""
    assert conditions.pooled is not None
    weight = embedder_weight(transformer)
    device, dtype = weight.device, weight.dtype
    sigmas = conditions.sigmas.to(device)
    times = [each.to(dtype) * 1000 for each in (sigmas, torch.full_like(sigmas, guidance))]
    return functional.silu(transformer.time_text_embed(*times, conditions.pooled.to(device, dtype)))
