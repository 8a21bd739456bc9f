"""What a person asked for, as values: whole, within bounds, or refused in one sentence that names the input."""

import dataclasses

import pytest

from lora.training.config import TrainConfig
from tests.tiny import assert_one_sentence

INPUTS = {
    "trigger_word": "TOK",
    "autocaption_prefix": None,
    "autocaption_suffix": None,
    "steps": 1000,
    "learning_rate": 4e-4,
    "batch_size": 1,
    "resolution": "512,768,1024",
    "lora_rank": 16,
    "caption_dropout_rate": 0.05,
    "cache_latents_to_disk": False,
    "seed": 42,
}


def checked(**changes):
    return TrainConfig.checked(**INPUTS | changes)


def test_good_inputs_are_kept():
    config = checked()
    assert config.resolutions == (512, 768, 1024)
    assert (config.steps, config.learning_rate, config.lora_rank, config.seed) == (1000, 4e-4, 16, 42)


def test_whole_numbers_may_arrive_as_floats():
    steps = checked(steps=1000.0).steps
    assert steps == 1000
    assert isinstance(steps, int)


def test_spaces_around_a_trigger_word_and_a_resolution_do_not_count():
    config = checked(trigger_word=" TOK ", resolution=" 512 , 768")
    assert config.trigger_word == "TOK"
    assert config.resolutions == (512, 768)


def test_a_trigger_word_is_on_one_line():
    assert checked(trigger_word="my\n  dog").trigger_word == "my dog"


def test_a_resolution_counts_once():
    assert checked(resolution="512,768,512").resolutions == (512, 768)


def test_captions_become_prompts_as_the_inputs_say():
    rule = checked(autocaption_prefix=" a photo of [trigger], ", autocaption_suffix=", at sea").prompt_rule
    assert rule.prompt("a dog") == "a photo of TOK, a dog, at sea"


def test_an_empty_trigger_word_is_allowed():
    assert checked(trigger_word="").trigger_word == ""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 2),
        ("steps", 6001),
        ("steps", 3.5),
        ("steps", True),
        ("steps", float("nan")),
        ("steps", float("inf")),
        ("steps", "1000"),
        ("learning_rate", 0),
        ("learning_rate", 0.2),
        ("learning_rate", float("nan")),
        ("learning_rate", None),
        ("batch_size", 0),
        ("batch_size", 17),
        ("lora_rank", 0),
        ("lora_rank", 129),
        ("caption_dropout_rate", -0.1),
        ("caption_dropout_rate", 1.1),
        ("seed", -1),
        ("seed", 2**31),
        ("autocaption_prefix", 5),
        ("autocaption_suffix", "x" * 1001),
        ("cache_latents_to_disk", "yes"),
        ("cache_latents_to_disk", 1),
        ("trigger_word", "x" * 101),
        ("trigger_word", 5),
        ("trigger_word", "[trigger]"),
        ("resolution", ""),
        ("resolution", ",".join(map(str, range(512, 521)))),
        ("resolution", "512;768"),
        ("resolution", "512,,768"),
        ("resolution", "32"),
        ("resolution", "4096"),
        ("resolution", "-512"),
        ("resolution", "\uff15\uff11\uff12"),
        ("resolution", 512),
        ("resolution", "9" * 150),
    ],
)
def test_a_bad_input_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"^{name} ") as error:
        checked(**{name: value})
    assert_one_sentence(error.value, name, "expected")


def test_a_misspelled_knob_does_not_exist():
    with pytest.raises(TypeError):
        checked(learning_rat=1e-4)


def test_a_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        checked().steps = 5
