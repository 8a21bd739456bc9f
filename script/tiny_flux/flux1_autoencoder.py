"""The VAE of tiny-flux before its training, in FLUX.1's layout with few weights, and the statistics of its latents."""

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from script.tiny_flux.autoencoder import AutoencoderSettings
from script.tiny_flux.autoencoder_pool import SIDE, normalized

KL_WEIGHT = 2e-4


def untrained_autoencoder(settings: AutoencoderSettings) -> AutoencoderKL:
    """Return a VAE with 16 channels and 8x downsampling."""
    torch.manual_seed(settings.seed)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=settings.widths,
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=8,
        sample_size=SIDE,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
        shift_factor=0.0,
        scaling_factor=1.0,
    )


def set_statistics(vae: AutoencoderKL, images: Tensor) -> None:
    """Set scale and shift so that the latents of images uint8 [N, 3, H, W] have mean 0 and standard deviation 1."""
    parts = [vae.encode(normalized(part).to(vae.device)).latent_dist.mean for part in images.split(50)]
    latents = torch.cat(parts)
    vae.register_to_config(
        shift_factor=round(latents.mean().item(), 4), scaling_factor=round(1 / latents.std().item(), 4)
    )
