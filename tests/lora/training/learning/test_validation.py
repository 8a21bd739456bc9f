"""A LoRA is judged on images that it never saw, always by the same questions."""

from dataclasses import replace

import pytest
import torch

from lora.dataset.encoding import EncodedDataset
from lora.training.learning.validation import NOISES, SIGMAS, Judgement, hold_out, judge, validation_steps, verdict
from tests.lora.training.trainers import strangers
from tests.tiny import (
    lora_parameters,
    randomize_lora,
    recorded_calls,
    tiny_dataset,
    tiny_example,
    tiny_lora_transformer,
    tiny_prompt,
)

QUESTIONS = len(SIGMAS) * NOISES


@pytest.mark.parametrize(
    ("images", "held_out"), [(1, 0), (11, 0), (12, 1), (14, 1), (16, 2), (30, 3), (40, 4), (41, 4), (400, 4)]
)
def test_a_tenth_is_held_out_of_twelve_images_or_more_and_four_at_most(images, held_out):
    parted = hold_out(tiny_dataset(images), seed=1)
    assert len(parted.held_out) == held_out
    assert len(parted.trained.examples) == images - held_out


def test_what_is_held_out_is_never_trained_and_nothing_is_lost():
    dataset = tiny_dataset(20)
    parted = hold_out(dataset, seed=1)
    kept_back = {example.content for example in parted.held_out}
    trained = {example.content for example in parted.trained.examples}
    assert not kept_back & trained
    assert kept_back | trained == {example.content for example in dataset.examples}
    assert parted.trained.dropped is dataset.dropped


def sizes_of(seed):
    """One image at three sizes."""
    return [tiny_example(seed=seed, height=side, width=side) for side in (4, 12, 8)]


def test_all_sizes_of_an_image_go_together_and_the_largest_is_judged():
    dataset = EncodedDataset(tuple(e for seed in range(12) for e in sizes_of(seed)), dropped=tiny_prompt(seed=99))
    parted = hold_out(dataset, seed=1)
    assert len(parted.trained.examples) == 33
    assert [example.latents.shape[-1] for example in parted.held_out] == [12]


def test_copies_of_an_image_are_one_image():
    """Under other names and captions: else it would be judged on what it was trained on."""
    copies = [replace(tiny_example(seed=3), prompt=tiny_prompt(seed=500 + index)) for index in range(20)]
    few = EncodedDataset((*tiny_dataset(11).examples, *copies), dropped=tiny_prompt(seed=99))
    assert hold_out(few, seed=1).held_out == ()
    enough = EncodedDataset((*tiny_dataset(12).examples, *copies), dropped=tiny_prompt(seed=99))
    for seed in range(20):
        parted = hold_out(enough, seed=seed)
        assert len(parted.held_out) == 1
        assert parted.held_out[0].content not in {example.content for example in parted.trained.examples}


def test_the_seed_and_not_the_order_of_the_archive_says_which_are_held_out():
    dataset = tiny_dataset(20)
    backwards = replace(dataset, examples=dataset.examples[::-1])

    def contents(dataset, seed):
        return [example.content for example in hold_out(dataset, seed=seed).held_out]

    assert contents(dataset, 1) == contents(backwards, 1)
    assert len({tuple(contents(dataset, seed)) for seed in range(10)}) > 1


def test_judging_twice_gives_the_same_numbers():
    """Trap 46."""
    transformer = tiny_lora_transformer()
    randomize_lora(transformer)
    first, again = (judge(transformer, strangers(), step=3) for _ in range(2))
    assert first == again
    assert len(first.losses) == 2 * QUESTIONS
    assert len(set(first.losses)) == 2 * QUESTIONS


def test_the_model_is_asked_at_the_sigmas_that_are_said():
    """Trap 46: with noise of its own for each image, sigma and turn."""
    transformer = tiny_lora_transformer()
    with recorded_calls(transformer) as calls:
        judge(transformer, strangers(), step=3)
    assert [call["timestep"].item() for call in calls] == pytest.approx(list(SIGMAS) * NOISES * 2)
    assert len({call["hidden_states"].sum().item() for call in calls}) == 2 * QUESTIONS


def test_judging_changes_no_weight_no_gradient_and_no_random_number():
    """Trap 47."""
    transformer = tiny_lora_transformer()
    before = {name: each.clone() for name, each in lora_parameters(transformer).items()}
    random = torch.get_rng_state()
    judge(transformer, strangers(), step=3)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(each, before[name]) for name, each in lora_parameters(transformer).items())
    assert all(each.grad is None for each in lora_parameters(transformer).values())


def judged(step, *losses):
    return Judgement(step, losses)


START = judged(0, 1.0, 1.0, 1.0, 1.0)


def test_without_images_held_out_it_is_the_last():
    choice = verdict([], last=8)
    assert (choice.step, choice.why) == (8, "the last, as no images were held out to compare it on")


def test_a_last_step_that_was_not_judged_is_given_away_and_not_said_to_be_without_images():
    for judgements in ([START], [START, judged(4, 0.1, 0.1, 0.1, 0.1)]):
        choice = verdict(judgements, last=5)
        assert (choice.step, choice.why) == (5, "the last, which was not judged on the held out images")


def test_the_last_is_given_away_if_it_is_the_best():
    choice = verdict([START, judged(4, 0.9, 0.8, 0.9, 0.8), judged(8, 0.8, 0.7, 0.8, 0.7)], last=8)
    assert (choice.step, choice.why) == (8, "the last, which does best on the held out images")


def test_the_best_is_given_away_if_the_last_is_worse_beyond_accident():
    choice = verdict([START, judged(4, 0.5, 0.6, 0.7, 0.8), judged(8, 0.6, 0.71, 0.79, 0.9)], last=8)
    assert choice.step == 4
    assert choice.why == "the best on the held out images: loss 0.6500 at step 4, 0.7500 at step 8"


def test_the_last_is_given_away_if_it_may_be_worse_by_accident():
    choice = verdict([START, judged(4, 0.5, 0.6, 0.7, 0.8), judged(8, 0.9, 0.5, 0.6, 0.8)], last=8)
    assert choice.step == 8
    assert choice.why.startswith("the last, as no earlier one is better beyond 2 standard errors")


def test_the_base_itself_is_never_given_away():
    choice = verdict([judged(0, 0.1, 0.1), judged(4, 0.5, 0.5), judged(8, 0.9, 0.95)], last=8)
    assert choice.step == 4


def test_losses_are_compared_pair_by_pair():
    """Sigmas differ far more than trainings do."""
    best = judged(4, *[0.1 * k for k in range(1, 11)])
    assert judged(8, *[0.1 * k + 0.01 + 0.001 * (k % 2) for k in range(1, 11)]).is_clearly_worse_than(best)
    assert not best.is_clearly_worse_than(best)


@pytest.mark.parametrize(("steps", "points"), [(1000, {0, 400, 550, 700, 850, 1000}), (3, {0, 1, 2, 3}), (1, {0, 1})])
def test_it_is_judged_before_and_at_five_points(steps, points):
    assert validation_steps(steps) == points


def test_a_step_that_answers_with_no_number_is_never_the_best():
    nan = Judgement(100, (float("nan"), 0.1))
    good = Judgement(40, (0.5, 0.5))
    assert verdict([Judgement(0, (1.0, 1.0)), good, nan], last=100).step == 40
    assert nan.is_clearly_worse_than(good)
    assert not good.is_clearly_worse_than(nan)
    assert (
        verdict(
            [Judgement(0, (1.0, 1.0)), Judgement(40, (float("nan"),) * 2), Judgement(100, (0.5, 0.5))], last=100
        ).step
        == 100
    )
