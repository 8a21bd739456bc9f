"""Validation computes the loss on held-out images, always at the same noise and sigmas, and selects a checkpoint."""

from dataclasses import replace

import pytest
import torch

from lora.dataset.encoding import EncodedDataset
from lora.training.learning.validation import (
    NOISES,
    SIGMAS,
    ValidationResult,
    hold_out,
    select_checkpoint,
    validate,
    validation_steps,
)
from tests.lora.training.trainers import unseen_examples
from tests.tiny import (
    lora_parameters,
    randomize_lora,
    recorded_calls,
    tiny_dataset,
    tiny_example,
    tiny_lora_transformer,
    tiny_prompt,
)

LOSSES_PER_IMAGE = len(SIGMAS) * NOISES


@pytest.mark.parametrize(
    ("images", "held_out"), [(1, 0), (11, 0), (12, 1), (14, 1), (16, 2), (30, 3), (40, 4), (41, 4), (400, 4)]
)
def test_a_tenth_is_held_out_of_twelve_images_or_more_and_four_at_most(images, held_out):
    split = hold_out(tiny_dataset(images), seed=1)
    assert len(split.held_out) == held_out
    assert len(split.train.examples) == images - held_out


def test_every_image_is_either_held_out_or_trained_on():
    dataset = tiny_dataset(20)
    split = hold_out(dataset, seed=1)
    held_out = {example.content for example in split.held_out}
    trained = {example.content for example in split.train.examples}
    assert not held_out & trained
    assert held_out | trained == {example.content for example in dataset.examples}
    assert split.train.dropped is dataset.dropped


def sizes_of(seed):
    """One image at three sizes."""
    return [tiny_example(seed=seed, height=side, width=side) for side in (4, 12, 8)]


def test_all_sizes_of_an_image_are_held_out_and_the_largest_is_used():
    dataset = EncodedDataset(tuple(e for seed in range(12) for e in sizes_of(seed)), dropped=tiny_prompt(seed=99))
    split = hold_out(dataset, seed=1)
    assert len(split.train.examples) == 33
    assert [example.latents.shape[-1] for example in split.held_out] == [12]


def test_copies_of_an_image_are_held_out_together():
    """Even with other names and captions; otherwise the training would be validated on its training images."""
    copies = [replace(tiny_example(seed=3), prompt=tiny_prompt(seed=500 + index)) for index in range(20)]
    few = EncodedDataset((*tiny_dataset(11).examples, *copies), dropped=tiny_prompt(seed=99))
    assert hold_out(few, seed=1).held_out == ()
    enough = EncodedDataset((*tiny_dataset(12).examples, *copies), dropped=tiny_prompt(seed=99))
    for seed in range(20):
        split = hold_out(enough, seed=seed)
        assert len(split.held_out) == 1
        assert split.held_out[0].content not in {example.content for example in split.train.examples}


def test_the_held_out_images_depend_on_the_seed_and_not_on_the_order_of_the_archive():
    dataset = tiny_dataset(20)
    backwards = replace(dataset, examples=dataset.examples[::-1])

    def contents(dataset, seed):
        return [example.content for example in hold_out(dataset, seed=seed).held_out]

    assert contents(dataset, 1) == contents(backwards, 1)
    assert len({tuple(contents(dataset, seed)) for seed in range(10)}) > 1


def test_validating_twice_gives_the_same_losses():
    """Trap 46."""
    transformer = tiny_lora_transformer()
    randomize_lora(transformer)
    first, again = (validate(transformer, unseen_examples(), step=3) for _ in range(2))
    assert first == again
    assert len(first.losses) == 2 * LOSSES_PER_IMAGE
    assert len(set(first.losses)) == 2 * LOSSES_PER_IMAGE


def test_the_model_is_called_at_the_fixed_sigmas():
    """Trap 46: with different noise for each image, sigma and repetition."""
    transformer = tiny_lora_transformer()
    with recorded_calls(transformer) as calls:
        validate(transformer, unseen_examples(), step=3)
    assert [call["timestep"].item() for call in calls] == pytest.approx(list(SIGMAS) * NOISES * 2)
    assert len({call["hidden_states"].sum().item() for call in calls}) == 2 * LOSSES_PER_IMAGE


def test_validation_changes_no_weight_no_gradient_and_no_random_number():
    """Trap 47."""
    transformer = tiny_lora_transformer()
    before = {name: each.clone() for name, each in lora_parameters(transformer).items()}
    random = torch.get_rng_state()
    validate(transformer, unseen_examples(), step=3)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(each, before[name]) for name, each in lora_parameters(transformer).items())
    assert all(each.grad is None for each in lora_parameters(transformer).values())


def result(step, *losses):
    return ValidationResult(step, losses)


BEFORE_TRAINING = result(0, 1.0, 1.0, 1.0, 1.0)


def test_without_held_out_images_the_last_step_is_selected():
    selection = select_checkpoint([], last=8)
    assert (selection.step, selection.why) == (8, "the last, as no images were held out to compare it on")


def test_a_last_step_that_was_not_validated_is_selected_with_that_reason():
    for validation_results in ([BEFORE_TRAINING], [BEFORE_TRAINING, result(4, 0.1, 0.1, 0.1, 0.1)]):
        selection = select_checkpoint(validation_results, last=5)
        assert (selection.step, selection.why) == (5, "the last, which was not judged on the held out images")


def test_the_last_step_is_selected_if_it_is_the_best():
    selection = select_checkpoint(
        [BEFORE_TRAINING, result(4, 0.9, 0.8, 0.9, 0.8), result(8, 0.8, 0.7, 0.8, 0.7)], last=8
    )
    assert (selection.step, selection.why) == (8, "the last, which does best on the held out images")


def test_the_best_step_is_selected_if_the_last_is_significantly_worse():
    selection = select_checkpoint(
        [BEFORE_TRAINING, result(4, 0.5, 0.6, 0.7, 0.8), result(8, 0.6, 0.71, 0.79, 0.9)], last=8
    )
    assert selection.step == 4
    assert selection.why == "the best on the held out images: loss 0.6500 at step 4, 0.7500 at step 8"


def test_the_last_step_is_selected_if_it_is_not_significantly_worse():
    selection = select_checkpoint(
        [BEFORE_TRAINING, result(4, 0.5, 0.6, 0.7, 0.8), result(8, 0.9, 0.5, 0.6, 0.8)], last=8
    )
    assert selection.step == 8
    assert selection.why.startswith("the last, as no earlier one is better beyond 2 standard errors")


def test_step_0_is_never_selected():
    selection = select_checkpoint([result(0, 0.1, 0.1), result(4, 0.5, 0.5), result(8, 0.9, 0.95)], last=8)
    assert selection.step == 4


def test_losses_are_compared_in_pairs():
    """The losses at different sigmas differ far more than those of different trainings."""
    best = result(4, *[0.1 * k for k in range(1, 11)])
    assert result(8, *[0.1 * k + 0.01 + 0.001 * (k % 2) for k in range(1, 11)]).is_clearly_worse_than(best)
    assert not best.is_clearly_worse_than(best)


@pytest.mark.parametrize(("steps", "expected"), [(1000, {0, 400, 550, 700, 850, 1000}), (3, {0, 1, 2, 3}), (1, {0, 1})])
def test_a_training_is_validated_before_its_first_step_and_at_five_points(steps, expected):
    assert validation_steps(steps) == expected


def test_a_step_with_a_loss_that_is_not_finite_is_never_the_best():
    nan = ValidationResult(100, (float("nan"), 0.1))
    good = ValidationResult(40, (0.5, 0.5))
    assert select_checkpoint([ValidationResult(0, (1.0, 1.0)), good, nan], last=100).step == 40
    assert nan.is_clearly_worse_than(good)
    assert not good.is_clearly_worse_than(nan)
    assert (
        select_checkpoint(
            [
                ValidationResult(0, (1.0, 1.0)),
                ValidationResult(40, (float("nan"),) * 2),
                ValidationResult(100, (0.5, 0.5)),
            ],
            last=100,
        ).step
        == 100
    )
