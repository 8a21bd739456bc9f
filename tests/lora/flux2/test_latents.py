"""The latents are those that the pipeline computes from an image, and takes."""

import torch
from diffusers import Flux2KleinPipeline

from lora.flux2.latents import encode_pixels, pack, unpack

HEIGHT, WIDTH = 3, 5  # of latents: 48x80 pixels, not square


def test_latents_are_those_of_the_pipelines_reference_images(klein):
    pixels = torch.rand(2, 3, HEIGHT * 16, WIDTH * 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        latents = encode_pixels(klein.vae, pixels)
        assert torch.equal(latents, klein._encode_vae_image(pixels, generator=None))
    assert latents.shape == (2, klein.transformer.config.in_channels, HEIGHT, WIDTH)


def test_what_the_pipeline_decodes_is_the_vaes_own_reconstruction(klein):
    """The pipeline unfolds and denormalizes the latents of its last step; here a step that changes nothing."""
    pixels = torch.rand(1, 3, HEIGHT * 16, WIDTH * 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        latents = encode_pixels(klein.vae, pixels)
        mean = klein.vae.encode(pixels).latent_dist.mean
    still = lambda _pipeline, _step, _time, kwargs: kwargs | {"latents": pack(latents)}  # noqa: E731
    decoded = klein(
        prompt="",
        height=HEIGHT * 16,
        width=WIDTH * 16,
        num_inference_steps=1,
        guidance_scale=1.0,
        max_sequence_length=klein.tokenizer.model_max_length,
        callback_on_step_end=still,
        output_type="latent",
    ).images
    assert (decoded - mean).abs().max() < 1e-5 * mean.abs().max()


def test_tokens_are_the_pipelines_and_unpacking_inverts_packing():
    latents = torch.randn(2, 8, HEIGHT, WIDTH)
    assert torch.equal(pack(latents), Flux2KleinPipeline._pack_latents(latents))
    assert torch.equal(unpack(pack(latents), height=HEIGHT, width=WIDTH), latents)
