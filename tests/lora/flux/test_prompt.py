"""Each base has its own text length, and uses one everywhere."""

from functools import partial

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline

from lora.base.components import load_tokenizers
from lora.families.loading import load_encoders
from lora.flux.components import COMPONENTS
from lora.flux.prompt import encode_prompt, text_tokens, text_tokens_of
from lora.flux.sampling import generate_image
from tests.tiny import TINY_FLUX, TINY_TEXT_TOKENS, assert_one_sentence, base_with_text_length, sampling_settings

TEXT = "a red star in a meadow"
CPU = torch.device("cpu")


@pytest.mark.parametrize(("length", "expected"), [(32, 32), (64, 64), (512, 512), (513, 512), (10**30, 512)])
def test_the_text_length_is_that_of_the_tokenizer_and_at_most_512(tmp_path, length, expected):
    base = base_with_text_length(length, tmp_path / "base")
    encoders = load_encoders(base, on=CPU)
    assert text_tokens(encoders) == text_tokens_of(base) == expected
    assert encode_prompt(encoders, TEXT).tokens.shape[0] == expected


def test_without_a_length_of_the_tokenizer_the_text_length_is_512(tmp_path):
    assert text_tokens_of(base_with_text_length(None, tmp_path / "base")) == 512


@pytest.mark.parametrize(("length", "expected"), [(64, 64), (512, 256)])
def test_without_guidance_the_text_length_is_at_most_256(tmp_path, length, expected):
    pipeline = FluxPipeline.from_pretrained(base_with_text_length(length, tmp_path / "base"), dtype=torch.float32)
    pipeline.transformer.register_to_config(guidance_embeds=False)
    assert text_tokens(pipeline) == expected


@pytest.mark.parametrize("length", [0, -1, "many", 31.5, True])
def test_an_invalid_text_length_is_refused(tmp_path, length):
    base = base_with_text_length(length, tmp_path / "base")
    for load in (partial(load_tokenizers, components=COMPONENTS), text_tokens_of):
        with pytest.raises(ValueError) as error:
            load(base)
        assert_one_sentence(error.value, str(base / "tokenizer_2"), "model_max_length", repr(length), "expected")


@pytest.mark.parametrize("tokens", [TINY_TEXT_TOKENS, 512])
def test_the_stock_pipeline_with_that_length_generates_our_pixels(tmp_path, tokens):
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
    ours = generate_image(pipeline, prompt, None, sampling_settings(64, steps=3, seed=100))
    assert np.array_equal(np.asarray(ours), np.asarray(stock))


def test_the_embedded_base_is_not_padded_to_the_512_tokens_of_flux():
    assert text_tokens_of(TINY_FLUX) == TINY_TEXT_TOKENS
