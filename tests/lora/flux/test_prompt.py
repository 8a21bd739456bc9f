"""How much of a text a base reads is its own, and one number everywhere."""

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline

from lora.flux.components import load_tokenizers
from lora.flux.loading import load_encoders
from lora.flux.prompt import encode_prompt, text_tokens, text_tokens_of
from lora.flux.sampling import generate_image
from tests.tiny import TINY_FLUX, TINY_TEXT_TOKENS, assert_one_sentence, base_with_text_length

TEXT = "a red star in a meadow"
CPU = torch.device("cpu")


@pytest.mark.parametrize(("said", "read"), [(32, 32), (64, 64), (512, 512), (513, 512), (10**30, 512)])
def test_a_base_reads_as_many_tokens_as_its_tokenizer_says_and_at_most_those_of_flux(tmp_path, said, read):
    base = base_with_text_length(said, tmp_path / "base")
    encoders = load_encoders(base, on=CPU)
    assert text_tokens(encoders) == text_tokens_of(base) == read
    assert encode_prompt(encoders, TEXT).tokens.shape[0] == read


def test_a_base_whose_tokenizer_says_nothing_reads_as_many_as_flux(tmp_path):
    assert text_tokens_of(base_with_text_length(None, tmp_path / "base")) == 512


@pytest.mark.parametrize(("said", "read"), [(64, 64), (512, 256)])
def test_a_base_without_guidance_reads_half_as_many_at_most(tmp_path, said, read):
    pipeline = FluxPipeline.from_pretrained(base_with_text_length(said, tmp_path / "base"), dtype=torch.float32)
    pipeline.transformer.register_to_config(guidance_embeds=False)
    assert text_tokens(pipeline) == read


@pytest.mark.parametrize("said", [0, -1, "many", 31.5, True])
def test_a_length_that_is_none_is_refused(tmp_path, said):
    base = base_with_text_length(said, tmp_path / "base")
    for load in (load_tokenizers, text_tokens_of):
        with pytest.raises(ValueError) as error:
            load(base)
        assert_one_sentence(error.value, str(base / "tokenizer_2"), "model_max_length", repr(said), "expected")


@pytest.mark.parametrize("tokens", [TINY_TEXT_TOKENS, 512])
def test_the_stock_pipeline_told_that_length_generates_our_pixels(tmp_path, tokens):
    pipeline = FluxPipeline.from_pretrained(base_with_text_length(tokens, tmp_path / "base"), dtype=torch.float32)
    stock = pipeline(
        TEXT,
        max_sequence_length=tokens,
        width=64,
        height=64,
        num_inference_steps=3,
        guidance_scale=3.5,
        generator=torch.Generator().manual_seed(100),
    ).images[0]
    prompt = encode_prompt(pipeline, TEXT)
    ours = generate_image(pipeline, prompt, width=64, height=64, steps=3, guidance=3.5, seed=100)
    assert np.array_equal(np.asarray(ours), np.asarray(stock))


def test_the_embedded_base_is_not_padded_to_the_512_tokens_of_flux():
    assert text_tokens_of(TINY_FLUX) == TINY_TEXT_TOKENS
