"""A prompt is encoded once for each set of LoRAs on the text encoders."""

import pytest
import torch

from lora.flux.prompt import encode_prompt
from lora.serving import prompts as prompts_module
from lora.serving.prompts import Prompts
from tests.tiny import tiny_pipeline


@pytest.fixture
def pipeline():
    return tiny_pipeline()


def test_a_prompt_is_encoded_only_once(pipeline):
    prompts = Prompts(pipeline)
    first = prompts.encode("a red star", applied=())
    assert torch.equal(first.tokens, encode_prompt(pipeline, "a red star").tokens)
    assert prompts.encode("a red star", applied=()) is first
    assert prompts.encode("a blue star", applied=()) is not first


def test_a_prompt_is_encoded_again_for_other_loras_on_the_encoders(pipeline):
    prompts = Prompts(pipeline)
    assert prompts.encode("a red star", applied=()) is not prompts.encode("a red star", applied=(("a", 1.0),))


def test_the_least_recently_used_prompt_is_evicted(pipeline, monkeypatch):
    monkeypatch.setattr(prompts_module, "MAX_PROMPTS", 2)
    prompts = Prompts(pipeline)
    first, second = prompts.encode("a", applied=()), prompts.encode("b", applied=())
    assert prompts.encode("a", applied=()) is first
    prompts.encode("c", applied=())
    assert prompts.encode("a", applied=()) is first
    assert prompts.encode("b", applied=()) is not second
