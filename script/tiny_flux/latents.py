"""The latents of images as the transformer of each family expects them."""

from typing import TypeAlias

from diffusers import AutoencoderKL, AutoencoderKLFlux2
from torch import Tensor
from torch.nn.functional import pixel_unshuffle

Autoencoder: TypeAlias = AutoencoderKL | AutoencoderKLFlux2
PATCH = 2  # latents per side of a patch, which is one token of the transformer


def model_latents(vae: Autoencoder, mean: Tensor) -> Tensor:
    """Return the latents of the transformer for the mean [N, C, H, W] of what the encoder returns.

    FLUX.1: [N, 16, H, W], shifted and scaled. FLUX.2: [N, 128, H/2, W/2], patches of 2 x 2 of 32 channels, each of
    which the batch norm of the VAE normalizes (`Flux2KleinPipeline._encode_vae_image`).
    """
    if isinstance(vae, AutoencoderKLFlux2):
        return vae.bn(patches(mean))
    return (mean - vae.config.shift_factor) * vae.config.scaling_factor


def patches(latents: Tensor) -> Tensor:
    """Return patches of 2 x 2: [N, C, H, W] to [N, 4 C, H/2, W/2], in the order of `_patchify_latents` in diffusers."""
    return pixel_unshuffle(latents, PATCH)
