"""The activations of the VAE are those that are counted for encoding and decoding, with tensors without data."""

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderKLFlux2

from lora.training.memory.encoders import VAE_BYTES_PER_PIXEL
from tests.lora.training.memory.measured import Alive

SIDE = 256  # pixels
FLUX_VAE = {
    "latent_channels": 16,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "mid_block_add_attention": True,
}
FLUX2_VAE: dict[str, object] = {}  # the defaults of its class


@torch.no_grad()
@pytest.mark.parametrize(("kind", "config"), [(AutoencoderKL, FLUX_VAE), (AutoencoderKLFlux2, FLUX2_VAE)])
@pytest.mark.parametrize(("direction", "share"), [("encode", 5 / 6), ("decode", 1.0)])
def test_the_vae_takes_what_is_predicted_for_decoding_and_less_for_encoding(kind, config, direction, share):
    with torch.device("meta"):
        vae = kind(**config).to(torch.bfloat16)
        channels = {"encode": 3, "decode": vae.config.latent_channels}[direction]
        side = {"encode": SIDE, "decode": SIDE // 8}[direction]
        with Alive() as alive:
            getattr(vae, direction)(torch.empty(1, channels, side, side, dtype=torch.bfloat16))
    assert alive.most / SIDE**2 == pytest.approx(share * VAE_BYTES_PER_PIXEL, rel=0.02)
