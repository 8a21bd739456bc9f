"""The activations of the VAE are those that are counted for encoding and decoding, with tensors without data."""

import pytest
import torch
from diffusers import AutoencoderKL

from lora.training.memory.encoders import VAE_BYTES_PER_PIXEL
from tests.lora.training.memory import test_activations
from tests.lora.training.memory.test_activations import Alive

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


@torch.no_grad()
@pytest.mark.parametrize(("direction", "share"), [("encode", 5 / 6), ("decode", 1.0)])
def test_the_vae_takes_what_is_predicted_for_decoding_and_less_for_encoding(monkeypatch, direction, share):
    monkeypatch.setattr(test_activations, "OPERATIONS_BETWEEN_COUNTS", 1)
    with torch.device("meta"):
        vae = AutoencoderKL(**FLUX_VAE).to(torch.bfloat16)
        inputs = {"encode": (1, 3, SIDE, SIDE), "decode": (1, 16, SIDE // 8, SIDE // 8)}[direction]
        with Alive() as alive:
            getattr(vae, direction)(torch.empty(inputs, dtype=torch.bfloat16))
    assert alive.most / SIDE**2 == pytest.approx(share * VAE_BYTES_PER_PIXEL, rel=0.02)
