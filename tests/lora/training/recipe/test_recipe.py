"""Inputs that are left open are chosen by the kind of LoRA and the number of images, with a reason for each choice."""

import pytest

from lora.flux.presets import PRESETS as FLUX1_PRESETS
from lora.flux2.presets import PRESETS as KLEIN_PRESETS
from lora.training.recipe.recipe import make_recipe
from lora.training.recipe.sigmas import SigmaRule
from tests.tiny import checked_config

OPEN = {"steps": 0, "learning_rate": 0, "lora_rank": 0}


def chosen(*, images=20, processes=1, **inputs):
    config = checked_config(**OPEN | inputs)
    return make_recipe(config, FLUX1_PRESETS[config.lora_type], images=images, processes=processes)


def recipe(**changes):
    return chosen(**changes).recipe


# recipe.md 3.2, except for what is from bench/learning.py: the rates, the sigma of subject and style, and preservation;
# in the order of `found` below
PRESETS = {
    "subject": (16, 4e-4, SigmaRule(0.0, 1.0, 0.0), 0.0, 0.05, True, 0.25, 2.0, 0.99, True, 1e-4),
    "style": (32, 2.8e-4, SigmaRule(0.0, 1.0, 0.0), 0.01, 0.10, False, 0.0, 1.0, 0.99, True, 1e-4),
    "general": (16, 3e-4, SigmaRule(None, 1.0, 0.0), 0.0, 0.05, False, 0.25, 2.0, 0.995, True, 1e-2),
    "replicate": (16, 4e-4, SigmaRule(0.0, 1.0, 0.0), 0.0, 0.05, True, 0.0, 1.0, 0.99, False, 1e-2),
}


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_has_its_documented_values(name):
    result = recipe(lora_type=name)
    found = (
        result.lora_rank,
        result.learning_rate,
        result.sigma_rule,
        result.offset_noise,
        result.caption_dropout_rate,
        result.drops_to_trigger,
        result.preservation,
        result.preservation_weight,
        result.ema_decay,
        result.ema_warms_up,
        result.weight_decay,
    )
    assert found == PRESETS[name]
    assert result.max_grad_norm == 1.0
    assert result.lora_type == name
    assert result.epsilon == (1e-6 if name == "replicate" else 1e-8)


@pytest.mark.parametrize(
    ("name", "images", "steps"),
    [
        ("subject", 5, 500),
        ("subject", 15, 900),
        ("subject", 100, 1200),
        ("style", 10, 800),
        ("style", 30, 1200),
        ("style", 100, 2000),
        ("general", 10, 1000),
        ("general", 80, 2000),
        ("general", 1000, 4000),
        ("replicate", 5, 1000),
        ("replicate", 500, 1000),
    ],
)
def test_the_number_of_steps_depends_on_the_number_of_images_within_bounds(name, images, steps):
    assert recipe(lora_type=name, images=images).steps == steps


def test_each_choice_has_a_reason():
    reasons = chosen(images=15).reasons
    assert reasons[0] == "lora_rank 16: the default of lora_type subject for 15 images"
    assert reasons[1] == "learning_rate 0.0004: for rank 16 and 1 image per step"
    assert reasons[2] == "steps 900: 60 for each of 15 images, 500 to 1200 in total, 1 per step"
    assert reasons[3] == "preservation 0.25: keeps other prompts as in the base; 0 is off"
    assert reasons[4] == "views 4: each image in full and in 3 crops of nearly all of it"
    assert len(reasons) == 5


def test_inputs_that_are_given_are_used_without_a_reason():
    result, reasons = chosen(
        images=20,
        steps=700,
        learning_rate=1e-4,
        lora_rank=8,
        caption_dropout_rate=0.0,
        timestep_logit_mean=0.5,
        ema_decay=0.0,
        optimizer="adamw",
        lr_scheduler="cosine",
        lora_type="style",
        batch_size=2,
        gradient_accumulation=3,
        seed=7,
    )
    assert (result.steps, result.learning_rate, result.lora_rank, result.caption_dropout_rate) == (700, 1e-4, 8, 0.0)
    assert result.sigma_rule == SigmaRule(0.5, 1.0, 0.0), "a given mean is the mean of all samples"
    assert (result.ema_decay, result.optimizer, result.lr_scheduler, result.seed) == (0.0, "adamw", "cosine", 7)
    assert (result.batch_size, result.gradient_accumulation) == (2, 3)
    assert all("times" in reason for reason in reasons), "warnings alone"


@pytest.mark.parametrize(("name", "rate"), [("subject", 4e-4), ("style", 4e-4), ("general", 3e-4)])
@pytest.mark.parametrize("rank", [4, 16, 32, 64])
def test_the_rate_falls_with_the_root_of_the_rank(name, rate, rank):
    assert recipe(lora_type=name, lora_rank=rank).learning_rate == pytest.approx(rate * (16 / rank) ** 0.5, rel=0.05)


@pytest.mark.parametrize(
    ("batch", "accumulation", "processes", "factor"),
    [(2, 1, 1, 2**0.5), (1, 2, 1, 2**0.5), (1, 1, 2, 2**0.5), (4, 1, 1, 2.0), (4, 4, 2, 2.0)],
)
def test_the_rate_grows_with_the_root_of_the_images_a_step_and_doubles_at_most(batch, accumulation, processes, factor):
    result = recipe(batch_size=batch, gradient_accumulation=accumulation, processes=processes)
    assert result.learning_rate == pytest.approx(4e-4 * factor, rel=0.05)


@pytest.mark.parametrize(("batch", "accumulation", "processes"), [(4, 1, 1), (1, 4, 1), (1, 1, 4), (2, 2, 1)])
def test_more_images_a_step_make_fewer_steps(batch, accumulation, processes):
    result = recipe(images=20, batch_size=batch, gradient_accumulation=accumulation, processes=processes)
    assert result.steps == 300, "1200 / 4"


def test_few_images_of_a_subject_get_a_lower_rate_and_fewer_steps():
    result, reasons = chosen(images=4)
    assert (result.steps, result.learning_rate, result.caption_dropout_rate) == (400, 2e-4, 0.1)
    assert "steps 400: few, because more would overfit 4 images" in reasons
    assert "caption_dropout_rate 0.1: higher for 4 images" in reasons
    assert any("halved for only 4 images" in reason for reason in reasons)
    assert recipe(images=5).caption_dropout_rate == 0.05
    assert recipe(images=4, lora_type="style").caption_dropout_rate == 0.1


@pytest.mark.parametrize(
    ("name", "given", "share"),
    [("subject", None, 0.25), ("subject", 0.0, 0.0), ("style", None, 0.0), ("style", 0.5, 0.5)],
)
def test_the_share_of_preservation_is_the_input_or_that_of_the_lora_type(name, given, share):
    result, reasons = chosen(lora_type=name, preservation=given)
    assert result.preservation == share
    assert any(reason.startswith("preservation") for reason in reasons) == (given is None and share > 0)


@pytest.mark.parametrize(("steps", "found"), [(3, "of 3 steps is less than one step: it is off"), (4, "keeps other")])
def test_one_line_says_whether_a_short_training_preserves(steps, found):
    (line,) = (reason for reason in chosen(steps=steps).reasons if reason.startswith("preservation"))
    assert found in line


def test_many_images_get_a_higher_rank():
    assert [recipe(images=count).lora_rank for count in (100, 101)] == [16, 32]
    assert recipe(images=500, lora_type="style").lora_rank == 32


def test_the_replicate_preset_does_not_depend_on_the_images():
    result, reasons = chosen(lora_type="replicate", images=3, batch_size=4, lora_rank=64)
    assert (result.steps, result.learning_rate, result.caption_dropout_rate) == (1000, 4e-4, 0.05)
    assert "steps 1000: as in the public trainer" in reasons
    assert "learning_rate 0.0004: as in the public trainer" in reasons


@pytest.mark.parametrize(("given", "expected"), [(0, 1.0), (4e-4, 1.0), (0.05, 1.0), (0.5, 0.5), (1.0, 1.0)])
@pytest.mark.parametrize("name", ["subject", "replicate"])
def test_the_reported_rate_of_prodigy_is_the_one_that_it_is_given(given, expected, name):
    result, reasons = chosen(optimizer="prodigy", learning_rate=given, lora_type=name, steps=1000, lora_rank=16)
    assert result.learning_rate == expected
    lines = [reason for reason in reasons if reason.startswith("learning_rate")]
    assert lines == ([] if expected == given else ["learning_rate 1: prodigy adapts it during training"])


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({"images": 9, "steps": 1000, "learning_rate": 1e-4}, "each image is seen 111 times: above 100"),
        ({"images": 40, "steps": 400, "learning_rate": 4e-4}, "each image is seen 10 times: below 20"),
        ({"images": 20, "steps": 1000, "learning_rate": 6e-4}, "learning_rate times steps is 0.6 (at rank 16)"),
        ({"images": 10, "steps": 300, "learning_rate": 1e-4}, "learning_rate times steps is 0.03 (at rank 16)"),
        ({"images": 20, "steps": 500, "batch_size": 5}, "each image is seen 125 times"),
        ({"images": 20, "steps": 500, "processes": 5}, "each image is seen 125 times"),
        ({"images": 20, "steps": 1000, "learning_rate": 4e-4, "lora_rank": 64}, "learning_rate times steps is 0.8"),
    ],
)
def test_risky_settings_are_warned_of(changes, warning):
    assert any(reason.startswith(warning) for reason in chosen(**changes).reasons)


@pytest.mark.parametrize("images", [5, 15, 30])
@pytest.mark.parametrize("name", ["subject", "style", "replicate"])
def test_there_is_no_warning_about_a_rate_that_we_chose(name, images):
    assert not any("learning_rate times steps" in reason for reason in chosen(lora_type=name, images=images).reasons)


@pytest.mark.parametrize("optimizer", ["prodigy", "lion", "adafactor"])
def test_rates_of_other_optimizers_than_adam_are_not_compared_with_those_of_adam(optimizer):
    reasons = chosen(optimizer=optimizer, learning_rate=1.0, steps=1000).reasons
    assert not any("learning_rate times steps" in reason for reason in reasons)


def test_a_dropped_caption_is_the_trigger_word_or_nothing():
    assert recipe(lora_type="subject").dropped_text("TOK") == "TOK"
    assert recipe(lora_type="style").dropped_text("TOK") == ""


def test_the_trained_noise_levels_are_described_in_a_line():
    assert recipe(lora_type="general").sigma_line() == "sigma: logit-normal shifted for the image size"
    config = checked_config(**OPEN | {"lora_type": "style"})
    of_klein = make_recipe(config, KLEIN_PRESETS["style"], images=15, processes=1).recipe
    assert of_klein.sigma_line() == "sigma: logit-normal shifted for the image size, 65% of it with mean 3"
    assert recipe(lora_type="replicate").sigma_line() == "sigma: logit-normal with mean 0"


@pytest.mark.parametrize("images", [1, 4, 15, 61, 100, 300])
def test_there_is_no_warning_about_steps_that_we_chose(images):
    assert not [reason for reason in chosen(images=images).reasons if "is seen" in reason]
