"""The inputs of a training are checked: valid ones become a config, others are refused by name in one sentence."""

import dataclasses

import pytest

from script.cog_server import ROOT
from script.openapi import training_inputs
from tests.tiny import assert_one_sentence
from tests.tiny import checked_config as checked


def test_valid_inputs_are_kept():
    config = checked()
    assert config.resolutions == (512, 768, 1024)
    assert (config.steps, config.learning_rate, config.lora_rank, config.seed) == (1000, 4e-4, 16, 42)


def test_whole_numbers_may_arrive_as_floats():
    steps = checked(steps=1000.0).steps
    assert steps == 1000
    assert isinstance(steps, int)


def test_spaces_around_a_trigger_word_and_a_resolution_are_removed():
    config = checked(trigger_word=" TOK ", resolution=" 512 , 768")
    assert config.trigger_word == "TOK"
    assert config.resolutions == (512, 768)


def test_line_breaks_in_a_trigger_word_become_spaces():
    assert checked(trigger_word="my\n  dog").trigger_word == "my dog"


def test_repeated_resolutions_count_once():
    assert checked(resolution="512,768,512").resolutions == (512, 768)


def test_captions_become_prompts_as_the_inputs_say():
    rule = checked(autocaption_prefix=" a photo of [trigger], ", autocaption_suffix=", at sea").prompt_rule
    assert rule.prompt("a dog") == "a photo of TOK, a dog, at sea"


def test_an_empty_trigger_word_is_allowed():
    assert checked(trigger_word="").trigger_word == ""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", -1),
        ("steps", 6001),
        ("steps", 3.5),
        ("steps", True),
        ("steps", float("nan")),
        ("steps", float("inf")),
        ("steps", "1000"),
        ("learning_rate", 1e-8),
        ("learning_rate", -1e-4),
        ("learning_rate", 1.1),
        pytest.param("learning_rate", 10**400, id="learning_rate-huge"),
        ("learning_rate", float("inf")),
        ("learning_rate", True),
        ("learning_rate", 1e300),
        ("learning_rate", float("nan")),
        ("learning_rate", None),
        ("batch_size", 0),
        ("batch_size", 257),
        ("batch_size", float("inf")),
        ("lora_rank", -1),
        ("lora_rank", 129),
        ("caption_dropout_rate", -0.1),
        ("caption_dropout_rate", 1.1),
        ("seed", 1.5),
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
        ("lora_type", "person"),
        ("training_steps", -1),
        ("gradient_accumulation", 0),
        ("gradient_accumulation", 65),
        ("optimizer", "adamw9bit"),
        ("optimizer", None),
        ("optimizer", ["adamw"]),
        ("trigger_word", "a\0b"),
        ("lr_scheduler", "step"),
        ("layers", "x" * 513),
        ("layers_to_optimize_regex", "x" * 513),
        ("timestep_logit_mean", 5),
        ("timestep_logit_mean", float("nan")),
        ("ema_decay", 1.0),
        ("precision", "fp8"),
        ("gradient_checkpointing", "auto"),
        ("validation", 1),
        ("sample_prompts", "\n".join("abcdefghi")),
        ("sample_every", -1),
        ("sample_steps", 0),
        ("sample_guidance", 21),
        ("checkpoint_every", 0),
        ("time_limit", 0),
        ("keep_resume_state", None),
        ("extra_layout", "comfyui"),
    ],
)
def test_a_bad_input_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"^{name} ") as error:
        checked(**{name: value})
    assert_one_sentence(error.value, name, "expected")


@pytest.mark.parametrize("written", ["AdamW8bit", "ADAMW8BIT", " adamw_8bit", "AdamW 8-bit"])
def test_an_optimizer_may_be_written_in_any_case(written):
    assert checked(optimizer=written).optimizer == "adamw8bit"


def test_prodigy_may_have_a_rate_above_1_as_it_is_a_factor():
    assert checked(optimizer="prodigy", learning_rate=2).learning_rate == 2.0


@pytest.mark.parametrize(
    ("inputs", "fragments"),
    [
        ({"learning_rate": 4}, ["learning_rate is 4", "expected at most 1 for adamw8bit", "0.0004 is usual"]),
        ({"learning_rate": 11, "optimizer": "Prodigy"}, ["learning_rate is 11", "at most 10 for prodigy"]),
        ({"batch_size": 1000}, ["batch_size is 1000", "expected 1 to 256", "raise gradient_accumulation"]),
    ],
)
def test_the_error_for_more_than_can_be_meant_says_what_to_do(inputs, fragments):
    with pytest.raises(ValueError) as error:
        checked(**inputs)
    assert_one_sentence(error.value, *fragments)


def test_a_batch_may_be_as_large_as_the_public_trainers_clients_ask_for():
    assert checked(batch_size=64).batch_size == 64


def test_any_seed_of_a_client_is_taken():
    config = checked(seed=2**40 + 7)
    (note,) = config.notes
    assert config.settings()["seed"] == config.seed == 7
    assert "7 is used" in note
    assert checked(seed=-1).seed != checked(seed=-1).seed


def test_a_misspelled_input_is_refused():
    with pytest.raises(TypeError):
        checked(learning_rat=1e-4)


def test_a_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        checked().steps = 5


def test_zero_and_nothing_leave_a_choice_open():
    config = checked(steps=0, learning_rate=0, lora_rank=0, caption_dropout_rate=None, ema_decay=None)
    assert (config.steps, config.learning_rate, config.lora_rank) == (0, 0, 0)
    assert config.caption_dropout_rate is None
    assert config.ema_decay is None


def test_training_steps_overrides_steps():
    assert checked(training_steps=300).steps == 300
    assert checked(steps=200, training_steps=None).steps == 200


def test_the_defaults_are_those_of_the_public_trainer():
    """peers.md 2.1: the defaults of ostris/flux-dev-lora-trainer."""
    config = checked()
    assert (config.steps, config.learning_rate, config.lora_rank, config.batch_size) == (1000, 4e-4, 16, 1)
    assert (config.trigger_word, config.resolutions, config.optimizer) == ("TOK", (512, 768, 1024), "adamw8bit")


def test_each_line_is_a_sample_prompt():
    """Trap T12: in ostris/flux-dev-lora-trainer, an empty line is a prompt."""
    assert checked(sample_prompts="a TOK\n\n  a dog  \r\n").sample_prompts == ("a TOK", "a dog")


@pytest.mark.parametrize(("given", "prompts"), [(None, None), (" \n", None), ("none", ()), (" None\n", ())])
def test_without_sample_prompts_they_are_made_of_the_captions_and_none_turns_samples_off(given, prompts):
    assert checked(sample_prompts=given).sample_prompts == prompts


def test_the_signature_and_the_checks_have_the_same_choices_and_bounds():
    """Without a schema Cog checks nothing, so the code has to check the same bounds."""
    for name, schema in training_inputs(ROOT).items():
        if name in ("input_images", "input_captions", "resume_from"):
            continue
        for bound, beyond in (("minimum", -1), ("maximum", 1)):
            if bound in schema:
                checked(**{name: schema[bound]})
                with pytest.raises(ValueError, match=f"^{name} "):
                    checked(**{name: schema[bound] + beyond})
        for choice in schema.get("enum", ()):
            checked(**{name: choice})
