"""The alphas that PEFT and diffusers save have the same effect as in these libraries; contradictions are refused."""

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


def scaling(settings, *, layer="blocks.0.to_q", rank=16):
    return adapters(settings)["transformer"].scaling(layer, rank)


def refusal(call):
    with pytest.raises(ValueError) as error:
        call()
    assert_one_sentence(error.value, "lora_adapter_metadata", "expected")
    return str(error.value)


def test_without_settings_there_is_no_adapter():
    assert read_adapters({}) == adapters({}) == adapters({"unet.r": 4}) == {}


def test_rslora_divides_alpha_by_the_square_root_of_the_rank():
    assert scaling(PLAIN) == 8 / 16
    assert scaling(PLAIN | {"transformer.use_rslora": True}) == 8 / 4


@pytest.mark.parametrize("use_rslora", [False, True])
def test_every_layer_has_the_scaling_of_peft(use_rslora):
    patterns = {"rank_pattern": {"a.b": 3, "^b": 5}, "alpha_pattern": {"b": 6.0}}
    model = nn.ModuleDict({"a": nn.ModuleDict({"b": nn.Linear(8, 8), "c": nn.Linear(8, 8)}), "b": nn.Linear(8, 8)})
    config = LoraConfig(r=4, lora_alpha=2, target_modules=["b", "c"], use_rslora=use_rslora, **patterns)
    reference = get_peft_model(model, config).base_model.model
    settings = {f"transformer.{key}": value for key, value in config.to_dict().items() if not isinstance(value, set)}
    for layer in ("a.b", "a.c", "b"):
        reference_layer = reference.get_submodule(layer)
        assert math.isclose(
            scaling(settings, layer=layer, rank=reference_layer.r["default"]), reference_layer.scaling["default"]
        ), layer


def test_a_rank_other_than_that_of_the_file_is_refused():
    assert "the rank 4 at blocks.0.to_q and 16 in" in refusal(lambda: scaling(PLAIN, rank=4))
    pattern = PLAIN | {"transformer.rank_pattern": {"to_q": 4}}
    assert "the rank 16 at blocks.0.to_q and 4 in" in refusal(lambda: scaling(pattern))


def test_a_rank_without_an_alpha_is_refused_and_the_reverse():
    assert "no transformer.r" in refusal(lambda: adapters({"transformer.lora_alpha": 16}))
    assert "no transformer.lora_alpha" in refusal(lambda: adapters({"transformer.r": 16}))


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
def test_invalid_settings_are_refused(settings):
    refusal(lambda: adapters(settings))


@pytest.mark.parametrize("value", [5, None, ["{}"]])
def test_settings_that_are_not_a_string_are_refused(value):
    refusal(lambda: read_adapters({"lora_adapter_metadata": value}))


def test_a_layer_is_found_quickly_among_many_patterns():
    """As many as a header can contain. Patterns are looked up by name, not evaluated as regular expressions."""
    many = PLAIN | {"transformer.rank_pattern": {f"layer{index}": 4 for index in range(100_000)}}
    adapter = adapters(many)["transformer"]
    assert {adapter.scaling(f"blocks.{index}.to_q", 16) for index in range(1000)} == {0.5}


def test_a_negative_alpha_is_refused():
    assert "above 0" in refusal(lambda: adapters(PLAIN | {"transformer.lora_alpha": -8}))
