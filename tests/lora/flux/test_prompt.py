"""The text length of a base without guidance, and the pooled vector of a prompt."""

import pytest
import torch
from diffusers import FluxPipeline

from lora.flux.prompt import encode_prompt, text_tokens
from tests.tiny import TINY_TEXT_TOKENS, base_with_text_length, tiny_pipeline


@pytest.mark.parametrize(("length", "expected"), [(64, 64), (512, 256)])
def test_without_guidance_the_text_length_is_at_most_256(tmp_path, length, expected):
    pipeline = FluxPipeline.from_pretrained(base_with_text_length(length, tmp_path / "base"), dtype=torch.float32)
    pipeline.transformer.register_to_config(guidance_embeds=False)
    assert text_tokens(pipeline) == expected


def test_a_prompt_is_tokens_of_the_bases_text_length_and_one_pooled_vector():
    """Traps 15, 16."""
    pipeline, text = tiny_pipeline(), "a photo of TOK, on a table"
    prompt = encode_prompt(pipeline, text)
    with torch.no_grad():
        tokens, pooled, _ = pipeline.encode_prompt(text, prompt_2=None, max_sequence_length=TINY_TEXT_TOKENS)
    assert prompt.tokens.shape[0] == TINY_TEXT_TOKENS
    assert torch.equal(prompt.tokens, tokens[0])
    assert torch.equal(prompt.pooled, pooled[0])
