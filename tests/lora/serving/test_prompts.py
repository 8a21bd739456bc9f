"""A prompt is encoded once, for each of the ways in which its encoders can be dressed."""

import pytest
import torch

from lora.flux.prompt import encode_prompt
from lora.serving import prompts as prompts_module
from lora.serving.prompts import Prompts
from tests.tiny import tiny_pipeline


@pytest.fixture
def pipeline():
    return tiny_pipeline()


def test_a_prompt_is_encoded_as_ever_and_only_once(pipeline):
    prompts = Prompts(pipeline)
    first = prompts.encode("a red star", worn=())
    assert torch.equal(first.tokens, encode_prompt(pipeline, "a red star").tokens)
    assert prompts.encode("a red star", worn=()) is first
    assert prompts.encode("a blue star", worn=()) is not first


def test_what_the_encoders_wear_tells_prompts_apart(pipeline):
    prompts = Prompts(pipeline)
    assert prompts.encode("a red star", worn=()) is not prompts.encode("a red star", worn=(("a", 1.0),))


def test_the_one_not_asked_for_longest_goes_first(pipeline, monkeypatch):
    monkeypatch.setattr(prompts_module, "MOST_PROMPTS", 2)
    prompts = Prompts(pipeline)
    first, second = prompts.encode("a", worn=()), prompts.encode("b", worn=())
    assert prompts.encode("a", worn=()) is first
    prompts.encode("c", worn=())
    assert prompts.encode("a", worn=()) is first
    assert prompts.encode("b", worn=()) is not second
