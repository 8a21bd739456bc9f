"""The LoRA that a training exports: the best one by validation, and never one that is not finite."""

from dataclasses import replace

import pytest
import torch

from lora.dataset.encoding import EncodedDataset
from lora.training.learning.adapter import SAVED_PRECISION
from lora.training.learning.validation import validate
from tests.lora.training.trainers import a_training, assert_same_checkpoint, run, stopped_in, unseen_examples
from tests.tiny import (
    a_recipe,
    assert_one_sentence,
    tiny_batches,
    tiny_dataset,
    tiny_example,
    tiny_lora_transformer,
    tiny_prompt,
)


def broken(seed):
    example = tiny_example(seed=seed)
    return replace(example, latents=torch.full_like(example.latents, float("inf")))


def partly_broken():
    return EncodedDataset((*tiny_dataset(3).examples, broken(3)), dropped=tiny_prompt(seed=999))


def all_broken():
    return EncodedDataset((broken(0), broken(1)), dropped=tiny_prompt(seed=999))


def test_steps_that_are_not_finite_are_skipped_and_counted(tmp_path, capsys):
    training = run(a_training(tmp_path, a_recipe(steps=8, batch_size=1), dataset=partly_broken()))
    summary = training.trainer.result(None).summary
    assert (summary.steps_done, summary.steps_skipped) == (8, 2), "one image in four, twice"
    assert summary.line().endswith("2 steps skipped.")
    lines = [line for line in capsys.readouterr().out.splitlines() if "skipping the step" in line]
    assert len(lines) == 2
    assert all(torch.isfinite(tensor).all() for tensor in training.trainer.result(None).tensors.values())


def test_a_training_whose_last_step_is_skipped_leaves_a_checkpoint(tmp_path):
    batches = tiny_batches(a_recipe(steps=8, batch_size=1), partly_broken())
    skipped = [step for step in range(2, 9) if not torch.isfinite(batches.examples(step - 1)[0].latents).all()]
    training = run(a_training(tmp_path, a_recipe(steps=skipped[0], batch_size=1), dataset=partly_broken()))
    assert training.last_checkpoint().step == skipped[0]


def test_a_training_with_skipped_steps_is_resumed_bit_for_bit(tmp_path):
    recipe = a_recipe(steps=8, batch_size=1)
    whole = run(a_training(tmp_path / "whole", recipe, dataset=partly_broken()))
    first = stopped_in(a_training(tmp_path / "first", recipe, dataset=partly_broken()), 6)
    second = run(a_training(tmp_path / "second", recipe, dataset=partly_broken(), checkpoint=first.last_checkpoint()))
    assert_same_checkpoint(second.last_checkpoint(), whole.last_checkpoint())


def test_twenty_skipped_steps_in_a_row_end_a_training_with_its_last_checkpoint(tmp_path):
    good = run(a_training(tmp_path, a_recipe(steps=3)))
    training = a_training(tmp_path, a_recipe(steps=50), dataset=all_broken(), checkpoint=good.last_checkpoint())
    reason = "diverged: 20 steps in a row, up to 23, were not finite"
    result = run(training, stops=reason).trainer.result(reason)
    assert (result.summary.exported_step, result.summary.steps_done, result.summary.steps_skipped) == (3, 23, 20)
    assert f"The training stopped early, after 23 of 50 steps: {reason}." in result.summary.line()
    assert training.last_checkpoint().step == 3, "diverged weights are not saved"
    assert all(torch.equal(result.tensors[name], each) for name, each in good.trainer.result(None).tensors.items())


@pytest.mark.parametrize("steps", [3, 50])
def test_the_error_after_skipped_steps_alone_blames_the_base_and_not_the_number_of_steps(tmp_path, steps):
    training = a_training(tmp_path, a_recipe(steps=steps), dataset=all_broken())
    with pytest.raises(RuntimeError) as error:
        training.trainer.result(training.trainer.run())
    skipped = f"all {min(steps, 20)} steps were NaN or infinite, from the first on"
    assert_one_sentence(
        error.value, "the training learned nothing", skipped, "base are probably damaged", "script/down"
    )


def test_twenty_skipped_steps_in_a_row_without_a_checkpoint_are_an_error(tmp_path):
    training = a_training(tmp_path, a_recipe(steps=50, batch_size=1), dataset=all_broken())
    training.trainer._state.step = 1
    reason = training.trainer.run()
    with pytest.raises(RuntimeError) as error:
        training.trainer.result(reason)
    found = "the training diverged by step 21, before its first checkpoint"
    assert str(error.value) == f"{found}: use a learning_rate lower than 0.001"


DIVERGING = {"steps": 10, "learning_rate": 0.03, "ema_decay": 0.0}


def unlike_held_out():
    """Images unlike the held-out ones: training on them lowers the held-out loss at first, and then raises it."""
    images = tuple(replace(example, latents=5 * example.latents) for example in tiny_dataset(2).examples)
    return EncodedDataset(images, dropped=tiny_prompt(seed=999))


def test_the_average_is_exported_and_the_weights_stay(tmp_path):
    """Trap 31: exporting twice gives the same, and the weights are unchanged afterwards."""
    training = run(a_training(tmp_path, a_recipe(steps=6)))
    first, again = training.trainer.result(None).tensors, training.trainer.result(None).tensors
    assert all(torch.equal(first[name], again[name]) for name in first)
    average, weights = training.last_checkpoint().tensors("average"), training.last_checkpoint().tensors("lora")
    for name, parameter in training.transformer.named_parameters():
        if ".lora_" in name:
            saved = first[f"transformer.{name.replace('.default', '')}"]
            assert torch.equal(saved, average[name].to(SAVED_PRECISION))
            assert torch.equal(parameter, weights[name])


def test_the_averaged_weights_are_validated(tmp_path):
    """Trap 31: the average, not the weights of the last step."""
    training = run(a_training(tmp_path, a_recipe(steps=4, learning_rate=0.03), held_out=unseen_examples()))
    average, transformer = training.last_checkpoint().tensors("average"), tiny_lora_transformer()
    transformer.load_state_dict(average, strict=False)
    expected = validate(transformer, unseen_examples(), step=4, batch_size=2)
    assert training.trainer.result(None).summary.validation_results[-1] == expected
    assert validate(training.transformer, unseen_examples(), step=4, batch_size=2) != expected


def test_the_best_step_is_exported_if_the_last_is_clearly_worse(tmp_path):
    training = run(a_training(tmp_path, a_recipe(**DIVERGING), dataset=unlike_held_out(), held_out=unseen_examples()))
    summary, tensors = training.trainer.result(None).summary, training.trainer.result(None).tensors
    means = {result.step: result.mean for result in summary.validation_results}
    assert summary.exported_step == min((step for step in means if step), key=means.get) == 7
    assert summary.exported_why.startswith("the best on the held out images")
    shorter = a_recipe(**DIVERGING | {"steps": 7})
    alone = run(a_training(tmp_path / "alone", shorter, dataset=unlike_held_out())).trainer.result(None).tensors
    assert all(torch.equal(tensors[name], alone[name]) for name in alone), "as in a training of seven steps"


def test_a_resumed_training_exports_the_best_step_too(tmp_path):
    recipe = a_recipe(**DIVERGING)
    whole = run(a_training(tmp_path / "whole", recipe, dataset=unlike_held_out(), held_out=unseen_examples()))
    first = a_training(tmp_path / "first", recipe, dataset=unlike_held_out(), held_out=unseen_examples())
    stopped_in(first, 9)
    second = a_training(
        tmp_path / "second",
        recipe,
        dataset=unlike_held_out(),
        held_out=unseen_examples(),
        checkpoint=first.last_checkpoint(),
    )
    expected, found = whole.trainer.result(None), run(second).trainer.result(None)
    assert found.summary == expected.summary
    assert all(torch.equal(found.tensors[name], expected.tensors[name]) for name in expected.tensors)


def test_the_last_step_is_exported_with_a_reason_if_the_best_checkpoint_is_lost(tmp_path):
    training = run(a_training(tmp_path, a_recipe(**DIVERGING), dataset=unlike_held_out(), held_out=unseen_examples()))
    for file in (tmp_path / "best").iterdir():
        file.unlink()
    summary = training.trainer.result(None).summary
    assert (summary.exported_step, summary.exported_why) == (
        10,
        "the last, as the better one of step 7 is not kept any more",
    )
