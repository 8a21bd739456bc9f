"""The VAE of tiny-flux2 before its training, which starts from that of tiny-flux, and the statistics of its latents."""

import torch
from diffusers import AutoencoderKL, AutoencoderKLFlux2
from torch import Tensor

from script.tiny_flux.autoencoder import AutoencoderSettings
from script.tiny_flux.autoencoder_pool import SIDE, normalized
from script.tiny_flux.latents import patches
from script.tiny_flux.state import Tensors
from weights.bases import WEIGHTS

CHANNELS, SOURCE_CHANNELS = 32, 16
KL_WEIGHT = 5e-3  # 25 times that of tiny-flux: 32 channels have room for noise, which makes the decoder tolerant
FIRST_LOG_VARIANCE = -7.0  # of the noise: a standard deviation of 0.03


def untrained_autoencoder(settings: AutoencoderSettings) -> AutoencoderKLFlux2:
    """Return a VAE that reconstructs as well as tiny-flux's, whose 16 channels are rotated into 32."""
    torch.manual_seed(settings.seed)
    vae = AutoencoderKLFlux2(
        block_out_channels=settings.widths,
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=8,
        sample_size=SIDE,
        mid_block_add_attention=False,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )
    source = AutoencoderKL.from_pretrained(WEIGHTS / "tiny-flux", subfolder="vae", dtype=torch.float32)
    vae.load_state_dict(vae.state_dict() | _widened(source.state_dict()) | _identities())
    return vae


def set_statistics(vae: AutoencoderKLFlux2, images: Tensor) -> None:
    """Set the batch norm to mean and variance of the patched latents of images uint8 [N, 3, H, W]."""
    parts = [vae.encode(normalized(part).to(vae.device)).latent_dist.mean for part in images.split(50)]
    vae.bn.momentum = None  # which stands for the plain average of all batches; there is one
    vae.bn.train()(patches(torch.cat(parts)))
    vae.bn.eval()


def _widened(source: Tensors) -> Tensors:
    """Return the weights of tiny-flux's VAE with 32 channels of latents.

    They are an orthonormal mixture of the 16, so that all are of the same importance and the decoder can undo it.
    """
    mixture = torch.linalg.qr(torch.randn(CHANNELS, SOURCE_CHANNELS)).Q
    means = {name: source[f"encoder.conv_out.{name}"][:SOURCE_CHANNELS] for name in ("weight", "bias")}
    weight = torch.einsum("ni,ihvw->nhvw", mixture, means["weight"])
    log_variance = torch.full((CHANNELS,), FIRST_LOG_VARIANCE)
    return source | {
        "encoder.conv_out.weight": torch.cat([weight, torch.zeros_like(weight)]),
        "encoder.conv_out.bias": torch.cat([mixture @ means["bias"], log_variance]),
        "decoder.conv_in.weight": torch.einsum("hivw,ni->hnvw", source["decoder.conv_in.weight"], mixture),
    }


def _identities() -> Tensors:
    """Return weights with which the convolutions around the latents change nothing yet."""
    sizes = {"quant_conv": 2 * CHANNELS, "post_quant_conv": CHANNELS}
    weights = {f"{name}.weight": torch.eye(size)[:, :, None, None] for name, size in sizes.items()}
    return weights | {f"{name}.bias": torch.zeros(size) for name, size in sizes.items()}
