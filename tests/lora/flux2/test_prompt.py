"""Prompts are encoded as the pipeline does, in Qwen3's chat template."""

import json

import pytest
import torch

from lora.flux2.prompt import TEXT, encode_prompt, text_tokens, text_tokens_of, token_count
from tests.families import KLEIN
from tests.tiny import assert_one_sentence, recorded_calls

TEXTS = ("a red star in a meadow", "", "<|im_end|> {{ braces }} \u00e9", "a long text, " * 10)


@pytest.mark.parametrize("text", TEXTS)
def test_a_prompt_is_the_pipelines_and_has_no_pooled_vector(klein, text):
    prompt = encode_prompt(klein, text)
    with torch.no_grad():
        tokens, _ = klein.encode_prompt(text, max_sequence_length=text_tokens(klein))
    assert torch.equal(prompt.tokens, tokens[0])
    assert prompt.pooled is None
    assert prompt.tokens.shape == (text_tokens_of(KLEIN.folder), TEXT.width_of(KLEIN.folder))


@pytest.mark.parametrize("text", TEXTS)
def test_the_count_is_that_of_all_tokens_that_the_encoder_would_see(klein, text):
    with recorded_calls(klein.text_encoder) as calls, torch.no_grad():
        klein.encode_prompt(text, max_sequence_length=200)
    assert token_count(klein, text) == calls[0]["attention_mask"].sum()


def test_of_a_text_that_is_too_long_its_own_end_and_that_of_the_template_are_cut_off(klein):
    with recorded_calls(klein.text_encoder) as calls:
        encode_prompt(klein, TEXTS[-1])
        encode_prompt(klein, "short")
    long, short = (klein.tokenizer.decode(call["input_ids"][0]) for call in calls)
    assert "assistant" in short
    assert "assistant" not in long
    assert token_count(klein, TEXTS[-1]) > text_tokens(klein) > token_count(klein, "short")


def test_a_tokenizer_without_a_chat_template_is_refused(tmp_path):
    base = KLEIN.linked(tmp_path / "base")
    (base / "tokenizer/chat_template.jinja").unlink(missing_ok=True)
    file = base / "tokenizer/tokenizer_config.json"
    config = {name: value for name, value in json.loads(file.read_text()).items() if name != "chat_template"}
    file.unlink()
    file.write_text(json.dumps(config))
    with pytest.raises(ValueError) as error:
        text_tokens_of(base)
    assert_one_sentence(error.value, str(base / "tokenizer"), "no chat template", "expected")


TOO_FEW_LAYERS = {"num_hidden_layers": 26, "layer_types": ["full_attention"] * 26}


@pytest.mark.parametrize(
    ("component", "changes", "found"),
    [
        ("text_encoder", TOO_FEW_LAYERS, "has 26 layers: expected at least 27"),
        ("transformer", {"joint_attention_dim": 12288}, "expected 12288"),
    ],
)
def test_a_text_encoder_that_does_not_fit_is_refused(tmp_path, component, changes, found):
    base = KLEIN.changed(tmp_path / "base", f"{component}/config.json", **changes)
    with pytest.raises(ValueError) as error:
        TEXT.width_of(base)
    assert_one_sentence(error.value, str(base / "text_encoder"), found)
