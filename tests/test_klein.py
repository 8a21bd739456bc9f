"""The parts of tiny-flux2 before their training: its tokens, its text encoder, its latents, its forward pass."""

import random

import pytest
import torch
from diffusers import AutoencoderKL, Flux2KleinPipeline
from torch import nn

from script.tiny_flux.autoencoder_pool import normalized, render_pool
from script.tiny_flux.captions import training_caption, vocabulary
from script.tiny_flux.described_monster import any_monster
from script.tiny_flux.klein.autoencoder import set_statistics, untrained_autoencoder
from script.tiny_flux.klein.networks import READ_LAYERS, TinyFlux2, chat_text
from script.tiny_flux.klein.tokenizer import TEXT_TOKENS, build_tokenizer
from script.tiny_flux.latents import model_latents
from script.tiny_flux.plan import TINY_FLUX2
from script.tiny_flux.world import BACKGROUNDS
from weights.bases import WEIGHTS

PROMPTS = ["a red star in a meadow", ""]


@pytest.fixture(scope="module")
def networks() -> TinyFlux2:
    """With random weights everywhere, so that every layer has an effect."""
    torch.manual_seed(0)
    networks = TinyFlux2(build_tokenizer()).requires_grad_(False)
    for parameter in networks.transformer.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    return networks


@pytest.fixture(scope="module")
def vae():
    """Before any training, with the statistics of a few images."""
    vae = untrained_autoencoder(TINY_FLUX2.autoencoder).eval().requires_grad_(False)
    set_statistics(vae, render_pool(16, seed=0))
    return vae


@pytest.fixture(scope="module")
def pipeline(networks, vae) -> Flux2KleinPipeline:
    """The pipeline of diffusers, whose methods are what these parts are compared with."""
    return Flux2KleinPipeline(
        scheduler=None,
        vae=vae,
        text_encoder=networks.text_encoder(),
        tokenizer=networks.tokenizer,
        transformer=networks.transformer,
    )


def test_every_word_of_the_captions_is_one_token_wherever_it_is(networks):
    for word in set(vocabulary()):
        first, later = (chat_text(networks.tokenizer, text) for text in (word, f"a {word}"))
        assert networks.tokenizer(first).input_ids[3] == networks.tokenizer(later).input_ids[4], word


def test_every_caption_fits_into_the_text_length(networks):
    rng = random.Random(3)
    captions = [training_caption(any_monster(rng.choice(list(BACKGROUNDS)), rng), rng).text for _ in range(500)]
    lengths = [len(networks.tokenizer(chat_text(networks.tokenizer, caption)).input_ids) for caption in captions]
    assert max(lengths) < TEXT_TOKENS == networks.tokenizer.model_max_length


@pytest.mark.parametrize("text", ["".join(map(chr, range(32, 127))), "ein Stern, \u00e9toile, \u661f \U0001f31f\n\t"])
def test_any_text_is_encoded_without_loss(networks, text):
    assert networks.tokenizer.decode(networks.tokenizer(text).input_ids) == text


def test_the_chat_template_is_that_of_qwen3_but_for_the_space_before_a_message(networks):
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "a star"}]
    start = "<|im_start|>system\n be brief<|im_end|>\n<|im_start|>user\n a star<|im_end|>\n"
    apply = networks.tokenizer.apply_chat_template
    assert apply(messages, tokenize=False) == start
    thinking = apply(messages, tokenize=False, add_generation_prompt=True)
    assert thinking == f"{start}<|im_start|>assistant\n"
    plain = apply(messages, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    assert plain == f"{thinking}<think>\n\n</think>\n\n"
    assert len(networks.tokenizer(chat_text(networks.tokenizer, "star")).input_ids) == 12 + 1


def test_the_three_trained_layers_are_what_the_pipeline_reads_of_the_written_model(networks, pipeline):
    expected, _ = pipeline.encode_prompt(PROMPTS, max_sequence_length=TEXT_TOKENS)
    assert torch.equal(networks.encode(PROMPTS), expected)
    thirds = expected.chunk(len(READ_LAYERS), dim=-1)
    assert not torch.equal(thirds[0], thirds[1])
    assert not torch.equal(thirds[1], thirds[2])


def test_the_velocity_is_that_of_the_transformer_with_the_positions_of_the_pipeline(networks, pipeline):
    noisy = torch.randn(2, 128, 2, 3, generator=torch.Generator().manual_seed(1))
    sigmas, text = torch.tensor([0.3, 0.9]), networks.encode(PROMPTS)
    found = networks.velocity(networks.transformer, noisy, sigmas=sigmas, text=text, guidance=1.0)
    positions = pipeline._prepare_latent_ids(noisy)
    expected = networks.transformer(
        hidden_states=pipeline._pack_latents(noisy),
        timestep=sigmas,
        encoder_hidden_states=text,
        txt_ids=pipeline._prepare_text_ids(text),
        img_ids=positions,
        return_dict=False,
    )[0]
    assert torch.equal(found, pipeline._unpack_latents_with_ids(expected, positions, 2, 3))
    assert not torch.allclose(found[0], found[1], atol=0.01)


def test_latents_are_those_that_the_pipeline_makes_of_an_image(pipeline, vae):
    pixels = normalized(render_pool(4, seed=1))
    found = model_latents(vae, vae.encode(pixels).latent_dist.mean)
    assert torch.allclose(found, pipeline._encode_vae_image(pixels, generator=None), atol=1e-5)


def test_the_statistics_make_every_channel_of_the_measured_images_normal(vae):
    latents = model_latents(vae, vae.encode(normalized(render_pool(16, seed=0))).latent_dist.mean)
    assert torch.allclose(latents.mean(dim=(0, 2, 3)), torch.zeros(128), atol=1e-4)
    assert torch.allclose(latents.var(dim=(0, 2, 3)), torch.ones(128), atol=0.02)


def test_the_autoencoder_starts_as_good_as_that_of_tiny_flux(vae):
    source = AutoencoderKL.from_pretrained(WEIGHTS / "tiny-flux", subfolder="vae", dtype=torch.float32)
    pixels = normalized(render_pool(2, seed=2))
    restored, expected = (each.decode(each.encode(pixels).latent_dist.mean).sample.detach() for each in (vae, source))
    assert torch.allclose(restored, expected, atol=1e-4)
    assert not torch.allclose(restored, pixels, atol=0.01)
