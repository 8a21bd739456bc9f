"""The latents of FLUX.1, and how it packs them: a sequence of 2x2 patches, each with its position.

Shapes: B batch, C latent channels, H and W latent height and width, N = (H/2)(W/2) image tokens.
"""

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from lora.base.latents import LatentSpace

PATCH = 2  # latent rows and columns that one token holds


def encode_pixels(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Encode pixels [B, 3, 8H, 8W] in -1..1 into latents [B, C, H, W], fp32 on the CPU: the mean of the posterior, with
    the shift and scale of FLUX.1."""
    mean = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.mean.float().cpu()
    return (mean - vae.config.shift_factor) * vae.config.scaling_factor


def pack(latents: Tensor) -> Tensor:
    """Pack latents [B, C, H, W], H and W even, into tokens [B, N, 4C], row by row, as FluxPipeline in diffusers does.

    Raises RuntimeError if H or W is odd.
    """
    batch, channels, height, width = latents.shape
    patches = latents.view(batch, channels, height // PATCH, PATCH, width // PATCH, PATCH)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * PATCH * PATCH)


def unpack(tokens: Tensor, *, height: int, width: int) -> Tensor:
    """Unpack tokens [B, N, 4C] to latents [B, C, H, W] of latent `height` and `width`; the inverse of `pack`."""
    batch, _, size = tokens.shape
    channels = size // (PATCH * PATCH)
    patches = tokens.view(batch, height // PATCH, width // PATCH, channels, PATCH, PATCH)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels, height, width)


def image_ids(*, height: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The position of each token, [N, 3]: 0, its row, its column, for latent `height` and `width`."""
    rows = torch.arange(height // PATCH, device=device, dtype=dtype)
    columns = torch.arange(width // PATCH, device=device, dtype=dtype)
    grid = torch.cartesian_prod(rows, columns).view(-1, 2)
    return torch.cat([torch.zeros_like(grid[:, :1]), grid], dim=1)


LATENTS = LatentSpace(pixels=8, channels=16, encode=encode_pixels)
