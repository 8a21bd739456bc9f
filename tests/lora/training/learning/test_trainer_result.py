"""What a training gives away: never what is not finite, and the best of what it was."""

from dataclasses import replace

import pytest
import torch

from lora.dataset.encoding import EncodedDataset
from lora.training.learning.adapter import SAVED_PRECISION
from lora.training.learning.validation import judge
from tests.lora.training.trainers import a_training, assert_same_end, run, stopped_in, strangers
from tests.tiny import a_recipe, tiny_batches, tiny_dataset, tiny_example, tiny_lora_transformer, tiny_prompt


def broken(seed):
    example = tiny_example(seed=seed)
    return replace(example, latents=torch.full_like(example.latents, float("inf")))


def partly_broken():
    return EncodedDataset((*tiny_dataset(3).examples, broken(3)), dropped=tiny_prompt(seed=999))


def all_broken():
    return EncodedDataset((broken(0), broken(1)), dropped=tiny_prompt(seed=999))


def test_steps_that_are_not_finite_are_skipped_and_counted(tmp_path, capsys):
    training = run(a_training(tmp_path, a_recipe(steps=8, batch_size=1), dataset=partly_broken()))
    account = training.session.result(None).account
    assert (account.done, account.skipped) == (8, 2), "one image in four, twice"
    assert account.line().endswith("2 steps skipped.")
    told = [line for line in capsys.readouterr().out.splitlines() if "the step is skipped" in line]
    assert len(told) == 2
    assert all(torch.isfinite(tensor).all() for tensor in training.session.result(None).tensors.values())


def test_a_training_whose_last_step_is_skipped_leaves_a_checkpoint(tmp_path):
    batches = tiny_batches(a_recipe(steps=8, batch_size=1), partly_broken())
    skipped = [step for step in range(2, 9) if not torch.isfinite(batches.examples(step - 1)[0].latents).all()]
    training = run(a_training(tmp_path, a_recipe(steps=skipped[0], batch_size=1), dataset=partly_broken()))
    assert training.end().step == skipped[0]


def test_a_training_goes_on_after_skipped_steps_bit_for_bit(tmp_path):
    recipe = a_recipe(steps=8, batch_size=1)
    whole = run(a_training(tmp_path / "whole", recipe, dataset=partly_broken()))
    first = stopped_in(a_training(tmp_path / "first", recipe, dataset=partly_broken()), 6)
    second = run(a_training(tmp_path / "second", recipe, dataset=partly_broken(), begin=first.end()))
    assert_same_end(second.end(), whole.end())


def test_twenty_in_a_row_end_it_with_the_last_good_checkpoint(tmp_path):
    good = run(a_training(tmp_path, a_recipe(steps=3)))
    training = a_training(tmp_path, a_recipe(steps=50), dataset=all_broken(), begin=good.end())
    reason = "diverged: 20 steps in a row, up to 23, were not finite"
    result = run(training, stops=reason).session.result(reason)
    assert (result.account.step, result.account.done, result.account.skipped) == (3, 23, 20)
    assert f"The training stopped early: {reason}." in result.account.line()
    assert training.end().step == 3, "nothing is saved that is not to be trusted"
    assert all(torch.equal(result.tensors[name], each) for name, each in good.session.result(None).tensors.items())


def test_twenty_in_a_row_without_a_checkpoint_are_an_error(tmp_path):
    training = a_training(tmp_path, a_recipe(steps=50), dataset=all_broken())
    reason = training.session.run()
    with pytest.raises(RuntimeError) as error:
        training.session.result(reason)
    assert str(error.value) == "the training diverged by step 20 (learning_rate 0.001), before its first checkpoint"


HOT = {"steps": 10, "learning_rate": 0.03, "ema_decay": 0.0}


def extreme():
    """Images unlike those that are held out: what is learned of them helps those at first, and then harms them."""
    images = tuple(replace(example, latents=5 * example.latents) for example in tiny_dataset(2).examples)
    return EncodedDataset(images, dropped=tiny_prompt(seed=999))


def test_the_average_is_given_away_and_left_out_of_the_weights(tmp_path):
    """Trap 31: once, and in the end the weights are as they were."""
    training = run(a_training(tmp_path, a_recipe(steps=6)))
    first, again = training.session.result(None).tensors, training.session.result(None).tensors
    assert all(torch.equal(first[name], again[name]) for name in first)
    average, weights = training.end().tensors("average"), training.end().tensors("lora")
    for name, parameter in training.transformer.named_parameters():
        if ".lora_" in name:
            saved = first[f"transformer.{name.replace('.default', '')}"]
            assert torch.equal(saved, average[name].to(SAVED_PRECISION))
            assert torch.equal(parameter, weights[name])


def test_what_is_judged_is_what_would_be_given_away(tmp_path):
    """Trap 31: the average, not the weights of the last step."""
    training = run(a_training(tmp_path, a_recipe(steps=4, learning_rate=0.03), held_out=strangers()))
    average, transformer = training.end().tensors("average"), tiny_lora_transformer()
    transformer.load_state_dict(average, strict=False)
    expected = judge(transformer, strangers(), step=4)
    assert training.session.result(None).account.judgements[-1] == expected
    assert judge(training.transformer, strangers(), step=4) != expected


def test_the_best_is_given_away_when_the_last_is_clearly_worse(tmp_path):
    training = run(a_training(tmp_path, a_recipe(**HOT), dataset=extreme(), held_out=strangers()))
    account, tensors = training.session.result(None).account, training.session.result(None).tensors
    means = {judgement.step: judgement.mean for judgement in account.judgements}
    assert account.step == min((step for step in means if step), key=means.get) == 7
    assert account.why.startswith("the best on the held out images")
    shorter = a_recipe(**HOT | {"steps": 7})
    alone = run(a_training(tmp_path / "alone", shorter, dataset=extreme())).session.result(None).tensors
    assert all(torch.equal(tensors[name], alone[name]) for name in alone), "those of a training of seven steps"


def test_the_best_is_given_away_after_the_training_went_on_elsewhere_too(tmp_path):
    recipe = a_recipe(**HOT)
    whole = run(a_training(tmp_path / "whole", recipe, dataset=extreme(), held_out=strangers()))
    first = a_training(tmp_path / "first", recipe, dataset=extreme(), held_out=strangers())
    stopped_in(first, 9)
    second = a_training(tmp_path / "second", recipe, dataset=extreme(), held_out=strangers(), begin=first.end())
    expected, found = whole.session.result(None), run(second).session.result(None)
    assert found.account == expected.account
    assert all(torch.equal(found.tensors[name], expected.tensors[name]) for name in expected.tensors)


def test_a_best_that_is_gone_is_not_given_away_and_that_is_said(tmp_path):
    training = run(a_training(tmp_path, a_recipe(**HOT), dataset=extreme(), held_out=strangers()))
    for file in (tmp_path / "best").iterdir():
        file.unlink()
    account = training.session.result(None).account
    assert (account.step, account.why) == (10, "the last, as the better one of step 7 is not kept any more")
