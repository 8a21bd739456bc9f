"""Validation computes the loss on held-out images, always at the same noise and sigmas, and selects a checkpoint."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lora.dataset.encoding import EncodedDataset
from lora.engine.linears import HostLinear
from lora.families.frozen_transformer import WeightPlacement, load_transformer
from lora.training.learning.adapter import add_lora
from lora.training.learning.held_out import MAX_HELD_OUT
from lora.training.learning.validation import (
    LOSSES,
    SIGMAS,
    ValidationResult,
    hold_out,
    read_results,
    select_checkpoint,
    validate,
    validation_steps,
)
from tests.lora.training.trainers import unseen_examples
from tests.tiny import (
    all_layers,
    lora_parameters,
    randomize_lora,
    recorded_calls,
    tiny_dataset,
    tiny_example,
    tiny_lora_transformer,
    tiny_prompt,
)

CPU = torch.device("cpu")
MODULATION_LAYERS = 2 * 2 + 2
# TFLOP of a forward pass of FLUX.1 for one image of 512, 768 and 1024 pixels, and of a step without recomputing, which
# computes no gradients of the frozen weights (reference/performance.md 1.2).
FORWARD, STEP = (21.50, 41.93, 74.38), (45.5, 92.2, 171.1)


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


def test_all_sizes_of_an_image_are_held_out_and_the_middle_one_is_used():
    dataset = EncodedDataset(tuple(e for seed in range(12) for e in sizes_of(seed)), dropped=tiny_prompt(seed=99))
    split = hold_out(dataset, seed=1)
    assert len(split.train.examples) == 33
    assert [example.latents.shape[-1] for example in split.held_out] == [8]
    two = replace(dataset, examples=tuple(each for each in dataset.examples if each.latents.shape[-1] != 4))
    assert [example.latents.shape[-1] for example in hold_out(two, seed=1).held_out] == [8]


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
    first, again = (validate(transformer, unseen_examples(), step=3, batch_size=2) for _ in range(2))
    assert first == again
    assert len(first.losses) == len(set(first.losses)) == LOSSES


@pytest.mark.parametrize("images", range(1, MAX_HELD_OUT + 1))
def test_the_model_is_called_at_the_fixed_sigmas(images):
    """Trap 46: with different noise for each pair of an image and a sigma, and each image and sigma about as often."""
    transformer = tiny_lora_transformer()
    with recorded_calls(transformer) as calls:
        validate(transformer, unseen_examples(images), step=3, batch_size=1)
    assert [call["timestep"].item() for call in calls] == pytest.approx([*SIGMAS, *SIGMAS])
    assert len({call["hidden_states"].sum().item() for call in calls}) == LOSSES
    prompts = [call["pooled_projections"].sum().item() for call in calls]
    counts = Counter(prompts).values()
    assert len(counts) == images
    assert max(counts) - min(counts) <= 1
    pairs = {(call["timestep"].item(), prompt) for call, prompt in zip(calls, prompts, strict=True)}
    assert len(pairs) == (LOSSES if images > 1 else len(SIGMAS))


def batch_sizes(examples, batch_size):
    """How many images each call of the model has, by their number of tokens, and the result."""
    transformer = tiny_lora_transformer()
    randomize_lora(transformer)
    with recorded_calls(transformer) as calls:
        found = validate(transformer, examples, step=3, batch_size=batch_size)
    return [tuple(call["hidden_states"].shape[:2]) for call in calls], found


@pytest.mark.parametrize(("batch_size", "expected"), [(1, [1] * LOSSES), (4, [4, 3, 3]), (9, [5, 5]), (16, [10])])
def test_images_of_one_size_are_validated_in_batches_with_the_same_losses(batch_size, expected):
    counts, found = batch_sizes(unseen_examples(), batch_size)
    assert [count for count, _ in counts] == expected
    _, one_by_one = batch_sizes(unseen_examples(), 1)
    assert found.losses == pytest.approx(one_by_one.losses, rel=1e-5)


def test_images_of_different_sizes_are_never_in_one_batch():
    examples = (*unseen_examples(2), tiny_example(seed=102, height=4, width=4))
    counts, found = batch_sizes(examples, LOSSES)
    assert counts == [(7, 24), (3, 4)]
    assert found.losses == pytest.approx(batch_sizes(examples, 1)[1].losses, rel=1e-5)


class Reads(TorchDispatchMode):
    """Counts how often a value of a tensor is read, for which the host waits for the device."""

    count = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.count += operation is torch.ops.aten._local_scalar_dense.default
        return operation(*args, **(kwargs or {}))


def test_no_pass_of_a_validation_waits_for_the_device():
    """Except for the list of all losses at the end."""
    transformer = tiny_lora_transformer()
    with Reads() as reads:
        validate(transformer, unseen_examples(), step=3, batch_size=1)
    assert reads.count == 0


def test_a_validation_copies_modulation_weights_on_the_host_once_and_has_the_same_losses(base, monkeypatch):
    copied, weight_on = [], HostLinear.weight_on
    monkeypatch.setattr(HostLinear, "weight_on", lambda *at: copied.append(at) or weight_on(*at))
    results = []
    for on_host in (True, False):
        transformer = load_transformer(base, WeightPlacement("fp32", on_host, CPU))
        add_lora(transformer, layers=all_layers(transformer), rank=2, seed=0)
        results.append(validate(transformer, unseen_examples(), step=3, batch_size=2))
    assert len(copied) == MODULATION_LAYERS
    assert results[0] == results[1]


def test_validation_takes_less_than_a_twentieth_of_a_training_of_1000_steps():
    """With the default resolutions, each as often as the others: at the middle size, by count of operations."""
    for sizes in ((0, 1, 2), (0,), (1,), (2,)):
        training = 1000 * sum(STEP[size] for size in sizes) / len(sizes)
        assert len(validation_steps(1000)) * LOSSES * FORWARD[sizes[(len(sizes) - 1) // 2]] < 0.03 * training


def test_validation_changes_no_weight_no_gradient_and_no_random_number():
    """Trap 47."""
    transformer = tiny_lora_transformer()
    before = {name: each.clone() for name, each in lora_parameters(transformer).items()}
    random = torch.get_rng_state()
    validate(transformer, unseen_examples(), step=3, batch_size=2)
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
        assert (selection.step, selection.why) == (5, "the last, which was not validated")


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


def test_results_of_a_checkpoint_with_another_number_of_losses_are_left_out():
    """Such as those of earlier versions: they cannot be compared with new ones."""
    saved = [[0, [1.0] * 40], [4, [0.5] * LOSSES]]
    assert read_results(saved) == [ValidationResult(4, (0.5,) * LOSSES)]
