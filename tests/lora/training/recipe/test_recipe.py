"""What was left open is chosen by the kind of LoRA and the number of images, and a person is told why."""

import pytest

from lora.training.recipe.recipe import choose
from lora.training.recipe.sigmas import SigmaRule
from tests.tiny import checked_config

OPEN = {"steps": 0, "learning_rate": 0, "lora_rank": 0}


def chosen(*, images=20, processes=1, **inputs):
    return choose(checked_config(**OPEN | inputs), images=images, processes=processes)


def recipe(**changes):
    return chosen(**changes).recipe


# recipe.md 3.2, but for the sigma and the rate of subject, which bench/learning.py found; in the order of `found` below
PRESETS = {
    "subject": (16, 4e-4, SigmaRule(0.0, 1.0, 0.0), 0.0, 0.05, True, 0.99, True, 1e-4),
    "style": (32, 1.4e-4, SigmaRule(None, 1.0, 0.65), 0.01, 0.10, False, 0.99, True, 1e-4),
    "general": (16, 1.5e-4, SigmaRule(None, 1.0, 0.0), 0.0, 0.05, False, 0.995, True, 1e-2),
    "replicate": (16, 4e-4, SigmaRule(0.0, 1.0, 0.0), 0.0, 0.05, True, 0.99, False, 1e-2),
}


@pytest.mark.parametrize("name", PRESETS)
def test_each_kind_has_the_values_of_its_evidence(name):
    made = recipe(lora_type=name)
    found = (
        made.lora_rank,
        made.learning_rate,
        made.sigma_rule,
        made.offset_noise,
        made.caption_dropout_rate,
        made.drops_to_trigger,
        made.ema_decay,
        made.ema_warms_up,
        made.weight_decay,
    )
    assert found == PRESETS[name]
    assert made.max_grad_norm == 1.0
    assert made.lora_type == name
    assert made.epsilon == (1e-6 if name == "replicate" else 1e-8)


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
def test_steps_are_by_the_images_within_bounds(name, images, steps):
    assert recipe(lora_type=name, images=images).steps == steps


def test_each_choice_is_told_with_its_reason():
    reasons = chosen(images=15).reasons
    assert reasons[0] == "lora_rank 16: what subject LoRAs take from 15 images"
    assert reasons[1] == "learning_rate 0.0004: for rank 16 and 1 image a step"
    assert reasons[2] == "steps 900: 60 times each of 15 images, 500 to 1200 in all, 1 a step"
    assert reasons[3] == "views 4: each image whole and in 3 crops of nearly all of it"
    assert len(reasons) == 4


def test_what_was_asked_for_is_taken_without_a_word():
    made, reasons = chosen(
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
    assert (made.steps, made.learning_rate, made.lora_rank, made.caption_dropout_rate) == (700, 1e-4, 8, 0.0)
    assert made.sigma_rule == SigmaRule(0.5, 1.0, 0.0), "a given mean is the mean of all samples"
    assert (made.ema_decay, made.optimizer, made.lr_scheduler, made.seed) == (0.0, "adamw", "cosine", 7)
    assert (made.batch_size, made.gradient_accumulation) == (2, 3)
    assert all("learn" in reason for reason in reasons), "warnings alone"


@pytest.mark.parametrize(("name", "rate"), [("subject", 4e-4), ("style", 2e-4), ("general", 1.5e-4)])
@pytest.mark.parametrize("rank", [4, 16, 32, 64])
def test_the_rate_falls_with_the_root_of_the_rank(name, rate, rank):
    assert recipe(lora_type=name, lora_rank=rank).learning_rate == pytest.approx(rate * (16 / rank) ** 0.5, rel=0.05)


@pytest.mark.parametrize(
    ("batch", "accumulation", "processes", "factor"),
    [(2, 1, 1, 2**0.5), (1, 2, 1, 2**0.5), (1, 1, 2, 2**0.5), (4, 1, 1, 2.0), (4, 4, 2, 2.0)],
)
def test_the_rate_grows_with_the_root_of_the_images_a_step_and_doubles_at_most(batch, accumulation, processes, factor):
    made = recipe(batch_size=batch, gradient_accumulation=accumulation, processes=processes)
    assert made.learning_rate == pytest.approx(4e-4 * factor, rel=0.05)


@pytest.mark.parametrize(("batch", "accumulation", "processes"), [(4, 1, 1), (1, 4, 1), (1, 1, 4), (2, 2, 1)])
def test_more_images_a_step_make_fewer_steps(batch, accumulation, processes):
    made = recipe(images=20, batch_size=batch, gradient_accumulation=accumulation, processes=processes)
    assert made.steps == 300, "1200 / 4"


def test_few_images_of_a_subject_are_learned_more_gently():
    made, reasons = chosen(images=4)
    assert (made.steps, made.learning_rate, made.caption_dropout_rate) == (400, 2e-4, 0.1)
    assert "steps 400: few, as more would learn 4 images by heart" in reasons
    assert "caption_dropout_rate 0.1: more, for 4 images" in reasons
    assert any("half as much for 4 images" in reason for reason in reasons)
    assert recipe(images=5).caption_dropout_rate == 0.05
    assert recipe(images=4, lora_type="style").caption_dropout_rate == 0.1


def test_many_images_get_a_higher_rank():
    assert [recipe(images=count).lora_rank for count in (100, 101)] == [16, 32]
    assert recipe(images=500, lora_type="style").lora_rank == 32


def test_the_peers_recipe_is_the_peers_whatever_the_images():
    made, reasons = chosen(lora_type="replicate", images=3, batch_size=4, lora_rank=64)
    assert (made.steps, made.learning_rate, made.caption_dropout_rate) == (1000, 4e-4, 0.05)
    assert "steps 1000: the peer's" in reasons
    assert "learning_rate 0.0004: the peer's" in reasons


@pytest.mark.parametrize(("given", "taken"), [(0, 1.0), (4e-4, 1.0), (0.05, 1.0), (0.5, 0.5), (1.0, 1.0)])
@pytest.mark.parametrize("name", ["subject", "replicate"])
def test_prodigy_finds_its_own_rate_and_that_is_what_is_told(given, taken, name):
    made, reasons = chosen(optimizer="prodigy", learning_rate=given, lora_type=name, steps=1000, lora_rank=16)
    assert made.learning_rate == taken
    told = [reason for reason in reasons if reason.startswith("learning_rate")]
    assert told == ([] if taken == given else ["learning_rate 1: prodigy finds its own"])


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({"images": 9, "steps": 1000, "learning_rate": 1e-4}, "each image is seen 111 times: over 100"),
        ({"images": 40, "steps": 400, "learning_rate": 4e-4}, "each image is seen 10 times: below 20"),
        ({"images": 20, "steps": 1000, "learning_rate": 6e-4}, "learning_rate times steps is 0.6 (at rank 16)"),
        ({"images": 10, "steps": 300, "learning_rate": 1e-4}, "learning_rate times steps is 0.03 (at rank 16)"),
        ({"images": 20, "steps": 500, "batch_size": 5}, "each image is seen 125 times"),
        ({"images": 20, "steps": 500, "processes": 5}, "each image is seen 125 times"),
        ({"images": 20, "steps": 1000, "learning_rate": 4e-4, "lora_rank": 64}, "learning_rate times steps is 0.8"),
    ],
)
def test_what_may_go_wrong_is_told(changes, warning):
    assert any(reason.startswith(warning) for reason in chosen(**changes).reasons)


@pytest.mark.parametrize("images", [5, 15, 30])
@pytest.mark.parametrize("name", ["subject", "style", "replicate"])
def test_our_own_choices_warn_of_no_rate(name, images):
    assert not any("learning_rate times steps" in reason for reason in chosen(lora_type=name, images=images).reasons)


@pytest.mark.parametrize("optimizer", ["prodigy", "lion", "adafactor"])
def test_a_rate_that_is_not_adams_is_not_judged_as_one(optimizer):
    reasons = chosen(optimizer=optimizer, learning_rate=1.0, steps=1000).reasons
    assert not any("learning_rate times steps" in reason for reason in reasons)


def test_a_dropped_caption_is_the_trigger_word_or_nothing():
    assert recipe(lora_type="subject").dropped_text("TOK") == "TOK"
    assert recipe(lora_type="style").dropped_text("TOK") == ""


def test_the_noise_that_is_trained_is_told_in_a_line():
    sigma = recipe(lora_type="style").sigma_line()
    assert sigma == "sigma: logit-normal around FLUX's shift for the size, 65% around 3"
    assert recipe(lora_type="replicate").sigma_line() == "sigma: logit-normal around 0"
