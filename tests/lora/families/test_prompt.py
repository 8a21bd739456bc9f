"""Each base has its own text length, and uses one everywhere."""

import numpy as np
import pytest
import torch

from lora.base.family import SamplingSettings
from lora.families.loading import load_encoders
from tests.families import TINY_BASES, of_each_family
from tests.tiny import assert_one_sentence

TEXT = "a red star in a meadow"
CPU = torch.device("cpu")


def with_text_length(tiny, folder, length):
    return tiny.changed(folder, f"{tiny.tokenizer}/tokenizer_config.json", model_max_length=length)


@of_each_family
@pytest.mark.parametrize(("length", "expected"), [(64, 64), (512, 512), (513, 512), (10**30, 512), (None, 512)])
def test_the_text_length_is_that_of_the_tokenizer_and_at_most_512(tmp_path, tiny, length, expected):
    assert tiny.family.text.length_of(with_text_length(tiny, tmp_path / "base", length)) == expected


@of_each_family
def test_a_prompt_has_that_length_and_the_width_that_its_config_promises(tmp_path, tiny):
    base, text = with_text_length(tiny, tmp_path / "base", 64), tiny.family.text
    encoders = load_encoders(base, on=CPU)
    assert text.encode(encoders, TEXT).tokens.shape == (text.length(encoders), text.width_of(base))
    assert text.length(encoders) == text.length_of(base) == 64


@of_each_family
@pytest.mark.parametrize("length", [0, -1, "many", 31.5, True])
def test_an_invalid_text_length_is_refused(tmp_path, tiny, length):
    base = with_text_length(tiny, tmp_path / "base", length)
    for load in (lambda: load_encoders(base, on=CPU), lambda: tiny.family.text.length_of(base)):
        with pytest.raises(ValueError) as error:
            load()
        assert_one_sentence(error.value, str(base / tiny.tokenizer), "model_max_length", repr(length), "expected")


@of_each_family
@pytest.mark.parametrize("length", [40, 512])
def test_the_stock_pipeline_with_that_length_and_its_own_guidance_generates_our_pixels(tmp_path, tiny, length):
    kind = tiny.family.components.pipeline
    pipeline = kind.from_pretrained(with_text_length(tiny, tmp_path / "base", length), dtype=torch.float32)
    stock = pipeline(
        prompt=TEXT,
        max_sequence_length=length,
        width=80,
        height=64,
        num_inference_steps=3,
        guidance_scale=tiny.guidance,
        generator=torch.Generator().manual_seed(100),
    ).images[0]
    settings = SamplingSettings(
        width=80, height=64, steps=3, guidance=tiny.guidance, seed=100, after_step=lambda _steps: None
    )
    prompt, negative = (tiny.family.text.encode(pipeline, text) for text in (TEXT, ""))
    ours = tiny.family.sampling.generate_image(pipeline, prompt, negative, settings)
    assert np.array_equal(np.asarray(ours), np.asarray(stock))


def test_embedded_bases_are_not_padded_to_the_512_tokens_of_published_ones():
    assert all(tiny.family.text.length_of(tiny.folder) < 512 for tiny in TINY_BASES)
