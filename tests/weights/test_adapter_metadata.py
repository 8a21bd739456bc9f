"""The alphas that PEFT and diffusers save beside a LoRA mean what these make of them; what contradicts is refused."""

import json
import math

import pytest
from peft import LoraConfig, get_peft_model
from torch import nn

from tests.tiny import assert_one_sentence
from weights.adapter_metadata import read_adapters

PLAIN = {"transformer.r": 16, "transformer.lora_alpha": 8}


def adapters(settings):
    text = settings if isinstance(settings, str) else json.dumps(settings)
    return read_adapters({"lora_adapter_metadata": text})


def strength(settings, *, layer="blocks.0.to_q", rank=16):
    return adapters(settings)["transformer"].strength(layer, rank)


def refusal(call):
    with pytest.raises(ValueError) as error:
        call()
    assert_one_sentence(error.value, "lora_adapter_metadata", "expected")
    return str(error.value)


def test_without_settings_there_is_no_adapter():
    assert read_adapters({}) == adapters({}) == adapters({"unet.r": 4}) == {}


def test_of_rslora_alpha_is_divided_by_the_root_of_the_rank():
    assert strength(PLAIN) == 8 / 16
    assert strength(PLAIN | {"transformer.use_rslora": True}) == 8 / 4


@pytest.mark.parametrize("use_rslora", [False, True])
def test_every_layer_is_as_strong_as_in_peft(use_rslora):
    patterns = {"rank_pattern": {"a.b": 3, "^b": 5}, "alpha_pattern": {"b": 6.0}}
    model = nn.ModuleDict({"a": nn.ModuleDict({"b": nn.Linear(8, 8), "c": nn.Linear(8, 8)}), "b": nn.Linear(8, 8)})
    config = LoraConfig(r=4, lora_alpha=2, target_modules=["b", "c"], use_rslora=use_rslora, **patterns)
    theirs = get_peft_model(model, config).base_model.model
    settings = {f"transformer.{key}": value for key, value in config.to_dict().items() if not isinstance(value, set)}
    for layer in ("a.b", "a.c", "b"):
        found = theirs.get_submodule(layer)
        assert math.isclose(strength(settings, layer=layer, rank=found.r["default"]), found.scaling["default"]), layer


def test_a_rank_that_is_not_that_of_the_file_is_refused():
    assert "the rank 4 at blocks.0.to_q and 16 in" in refusal(lambda: strength(PLAIN, rank=4))
    pattern = PLAIN | {"transformer.rank_pattern": {"to_q": 4}}
    assert "the rank 16 at blocks.0.to_q and 4 in" in refusal(lambda: strength(pattern))


def test_half_of_what_makes_a_strength_is_refused():
    assert "no transformer.r" in refusal(lambda: adapters({"transformer.lora_alpha": 16}))
    assert "no transformer.lora_alpha" in refusal(lambda: adapters({"transformer.r": 16}))


def test_a_dora_is_refused_by_name():
    assert "is a DoRA, by transformer.use_dora" in refusal(lambda: adapters(PLAIN | {"transformer.use_dora": True}))


@pytest.mark.parametrize(
    "settings",
    [
        "no json",
        "[1]",
        "[" * 100_000,
        '{"transformer.r": 1' + "0" * 5000 + ', "transformer.lora_alpha": 1}',
        PLAIN | {"transformer.r": 0},
        PLAIN | {"transformer.r": "16"},
        PLAIN | {"transformer.r": True},
        PLAIN | {"transformer.lora_alpha": math.nan},
        PLAIN | {"transformer.lora_alpha": math.inf},
        PLAIN | {"transformer.lora_alpha": 10**400},
        PLAIN | {"transformer.alpha_pattern": 4},
        PLAIN | {"transformer.alpha_pattern": {"to_q": None}},
        PLAIN | {"transformer.rank_pattern": {"(a+)+": 4}},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings):
    refusal(lambda: adapters(settings))


@pytest.mark.parametrize("value", [5, None, ["{}"]])
def test_settings_that_are_no_text_are_refused(value):
    refusal(lambda: read_adapters({"lora_adapter_metadata": value}))


def test_a_layer_in_many_patterns_is_found_at_once():
    """As many as a header can hold; no pattern is ever run as the regular expression that PEFT makes of it."""
    many = PLAIN | {"transformer.rank_pattern": {f"layer{index}": 4 for index in range(100_000)}}
    adapter = adapters(many)["transformer"]
    assert {adapter.strength(f"blocks.{index}.to_q", 16) for index in range(1000)} == {0.5}


def test_a_negative_alpha_is_no_strength():
    assert "above 0" in refusal(lambda: adapters(PLAIN | {"transformer.lora_alpha": -8}))
