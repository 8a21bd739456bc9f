"""The latents of FLUX.2: those of its VAE, folded 2x2 into channels and normalized by statistics that the VAE brings
along. Tensors in, tensors out.

Shapes: B batch, C channels (128, four times those of the VAE), H and W the sixteenth of an image's height and width,
N = HW image tokens.
"""

import torch
from diffusers import AutoencoderKLFlux2
from torch import Tensor
from torch.nn.functional import pixel_unshuffle

from lora.base.latents import TOKEN_PIXELS, LatentSpace
from lora.flux2.components import PATCH


def encode_pixels(vae: AutoencoderKLFlux2, pixels: Tensor) -> Tensor:
    """Encode pixels [B, 3, 16H, 16W] in -1..1 into latents [B, C, H, W], fp32 on the CPU: the mean of the posterior,
    normalized as `Flux2KleinPipeline` does with reference images."""
    mean = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.mean.float().cpu()
    means, variances = (each.float().cpu().view(1, -1, 1, 1) for each in (vae.bn.running_mean, vae.bn.running_var))
    return (pixel_unshuffle(mean, PATCH[0]) - means) / torch.sqrt(variances + vae.config.batch_norm_eps)


def pack(latents: Tensor) -> Tensor:
    """Pack latents [B, C, H, W] into tokens [B, N, C], row by row."""
    return latents.flatten(2).transpose(1, 2)


def unpack(tokens: Tensor, *, height: int, width: int) -> Tensor:
    """Unpack tokens [B, N, C] to latents [B, C, H, W]; the inverse of `pack`."""
    return tokens.transpose(1, 2).unflatten(2, (height, width))


LATENTS = LatentSpace(pixels=TOKEN_PIXELS, channels=128, encode=encode_pixels)
