"""Latents are packed as in the pipeline, including latents that are not square."""

import pytest
import torch
from diffusers import FluxPipeline

from lora.base.latents import TOKEN_PIXELS
from lora.flux.latents import image_ids, pack, unpack

SHAPES = [(1, 16, 6, 10), (3, 4, 12, 4), (2, 16, 2, 2)]


@pytest.mark.parametrize("shape", SHAPES)
def test_tokens_are_packed_as_the_pipeline_packs_them(shape):
    """Trap 12."""
    latents = torch.randn(shape)
    assert torch.equal(pack(latents), FluxPipeline._pack_latents(latents, *shape))


@pytest.mark.parametrize("shape", SHAPES)
def test_unpacking_is_the_inverse_of_packing(shape):
    """Trap 12."""
    latents = torch.randn(shape)
    assert torch.equal(unpack(pack(latents), height=shape[2], width=shape[3]), latents)


@pytest.mark.parametrize("shape", SHAPES)
def test_tokens_are_unpacked_as_the_pipeline_unpacks_them(shape):
    """Trap 12."""
    tokens = pack(torch.randn(shape))
    _, _, height, width = shape
    theirs = FluxPipeline._unpack_latents(tokens, height * 8, width * 8, vae_scale_factor=8)
    assert torch.equal(unpack(tokens, height=height, width=width), theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_positions_of_tokens_are_those_of_the_pipeline(dtype):
    """Trap 13."""
    device = torch.device("cpu")
    ours = image_ids(height=6, width=10, device=device, dtype=dtype)
    theirs = FluxPipeline._prepare_latent_image_ids(1, 3, 5, device, dtype)
    assert ours.ndim == 2
    assert ours.dtype == theirs.dtype
    assert torch.equal(ours, theirs)


def test_a_token_is_16_pixels_a_side():
    latents = torch.zeros(1, 16, 1024 // 8, 512 // 8)
    assert pack(latents).shape[1] == (1024 // TOKEN_PIXELS) * (512 // TOKEN_PIXELS)
