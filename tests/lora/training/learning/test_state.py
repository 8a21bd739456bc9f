"""All that a training is at a step: it can be put away and taken up again, to the last bit."""

import json

import pytest
import torch

from lora.training.learning.data_parallel import SingleProcess
from lora.training.learning.loop import take_step
from lora.training.learning.state import TrainingState
from tests.tiny import a_recipe, tiny_batches, tiny_lora_transformer

STEPS = 12


def a_state(recipe):
    """A state, and a function that takes so many of its steps."""
    transformer = tiny_lora_transformer(rank=recipe.lora_rank)
    state, batches = TrainingState(transformer, recipe), tiny_batches(recipe)

    def go(steps):
        for _ in range(steps):
            take_step(transformer, state, batches, recipe, team=SingleProcess())

    return state, go


def copied(tensors):
    return [tensor.detach().clone() for tensor in tensors]


def are_same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def everything(state):
    """All tensors and all else of a state, at this moment."""
    tensors = {
        f"{group}.{name}": tensor.clone() for group, of in state.tensors().items() for name, tensor in of.items()
    }
    return tensors, json.dumps(state.values())


def assert_same(one, other):
    (tensors, values), (other_tensors, other_values) = one, other
    assert tensors.keys() == other_tensors.keys()
    assert [name for name in tensors if not torch.equal(tensors[name], other_tensors[name])] == []
    assert values == other_values


@pytest.mark.parametrize("scheduler", ["constant", "cosine"])
@pytest.mark.parametrize("optimizer", ["adamw8bit", "adamw", "prodigy", "adafactor"])
def test_a_restored_state_goes_on_bit_for_bit(optimizer, scheduler):
    """Trap 39. Of rank 64, for which adamw8bit really keeps 8 bits."""
    rate = 1.0 if optimizer == "prodigy" else 1e-3
    recipe = a_recipe(steps=STEPS, optimizer=optimizer, learning_rate=rate, lr_scheduler=scheduler, lora_rank=64)
    (state, go), (other, go_other) = a_state(recipe), a_state(recipe)
    go(4)
    saved, values = state.tensors(), json.loads(json.dumps(state.values()))
    other.restore({group: {name: each.clone() for name, each in of.items()} for group, of in saved.items()}, values)
    assert_same(everything(other), everything(state))
    go(3)
    go_other(3)
    assert other.step == 7
    assert_same(everything(other), everything(state))
    if optimizer == "adamw8bit":
        assert any(tensor.dtype == torch.uint8 for tensor in saved["optimizer"].values()), "trap 20"


def test_a_state_of_another_rank_is_refused():
    state, _ = a_state(a_recipe(lora_rank=4))
    other, _ = a_state(a_recipe(lora_rank=8))
    with pytest.raises(ValueError, match="other layers or another rank"):
        state.restore(other.tensors(), other.values())


def test_an_average_of_another_rank_is_refused():
    state, _ = a_state(a_recipe(lora_rank=4))
    other, _ = a_state(a_recipe(lora_rank=8))
    with pytest.raises(ValueError, match="other layers or another rank"):
        state.wear(other.tensors()["average"])


def averages_of(state, go, steps):
    """The weights and their average after each of so many steps."""
    found = []
    for _ in range(steps):
        go(1)
        found.append((copied(state.parameters), copied(state.average.shadow_params)))
    return found


def test_the_average_is_warmed_up():
    """Trap 30: it begins with the weights of the first step and then keeps 2/11, 3/12 and so on, at most 0.99."""
    found = averages_of(*a_state(a_recipe(steps=STEPS)), STEPS)
    expected = found[0][0]
    for count, (weights, average) in enumerate(found):
        decay = min(0.99, (1 + count) / (10 + count)) if count else 0.0
        expected = [decay * old + (1 - decay) * new for old, new in zip(expected, weights, strict=True)]
        assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-7) for a, b in zip(average, expected, strict=True)), count
    assert not are_same(*found[-1])


def test_the_peers_average_is_not_warmed_up():
    found = averages_of(*a_state(a_recipe(steps=3, ema_decay=0.9, ema_warms_up=False)), 3)
    expected = found[0][0]
    for weights, average in found[1:]:
        expected = [0.9 * old + 0.1 * new for old, new in zip(expected, weights, strict=True)]
        assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-7) for a, b in zip(average, expected, strict=True))


def test_an_average_that_is_off_is_the_weights():
    for weights, average in averages_of(*a_state(a_recipe(ema_decay=0.0)), 3):
        assert all(torch.allclose(a, b, atol=1e-8) for a, b in zip(weights, average, strict=True))


def test_the_average_comes_to_weights_that_stay_as_they_are():
    """Trap 30: in bf16 it would stick at a distance."""
    state, _ = a_state(a_recipe(ema_decay=0.99))
    state.average.step(state.parameters)
    with torch.no_grad():
        for parameter in state.parameters:
            parameter.fill_(0.0204)
    for _ in range(1500):
        state.average.step(state.parameters)
    assert all(average.dtype == torch.float32 for average in state.average.shadow_params)
    assert all((average - 0.0204).abs().max() < 1e-5 for average in state.average.shadow_params)


def test_the_average_is_worn_for_a_while_and_the_weights_come_back_bit_for_bit():
    """Trap 31."""
    state, go = a_state(a_recipe(steps=STEPS))
    go(5)
    before, average = everything(state), copied(state.average.shadow_params)
    with state.averaged():
        assert are_same(state.parameters, average)
        assert not state.is_whole
    assert state.is_whole
    assert_same(everything(state), before)


def test_the_weights_come_back_if_the_while_is_interrupted():
    """Trap 31."""
    state, go = a_state(a_recipe(steps=STEPS))
    go(5)
    before = everything(state)
    with pytest.raises(KeyboardInterrupt), state.averaged():
        raise KeyboardInterrupt
    assert state.is_whole
    assert_same(everything(state), before)


def test_a_training_whose_average_was_worn_goes_on_as_if_it_had_not_been():
    """Trap 31."""
    (state, go), (other, go_other) = a_state(a_recipe(steps=STEPS)), a_state(a_recipe(steps=STEPS))
    for _ in range(4):
        go(1)
        go_other(1)
        with state.averaged():
            state.tensors()
    assert_same(everything(state), everything(other))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(value):
    state, go = a_state(a_recipe(steps=STEPS))
    go(3)
    (tensors, _), values = everything(state), state.values()
    for parameter in state.parameters:
        parameter.grad = torch.ones_like(parameter)
    state.parameters[0].grad[0, 0] = value
    assert not state.clip().isfinite()
    state.update(is_finite=False)
    assert [name for name, tensor in everything(state)[0].items() if not torch.equal(tensor, tensors[name])] == []
    counts = {"step": 4, "skipped": 1, "skipped_in_a_row": 1}
    assert state.values() == {**values, **counts}
    assert not any(parameter.grad.any() for parameter in state.parameters)
    go(1)
    assert (state.step, state.skipped, state.skipped_in_a_row) == (5, 1, 0)


def test_a_state_that_is_interrupted_in_a_step_says_that_it_may_be_half_changed():
    state, go = a_state(a_recipe(steps=STEPS))
    go(1)
    assert state.is_whole

    def interrupt(*_):
        raise KeyboardInterrupt

    state.optimizer.register_step_post_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        go(1)
    assert not state.is_whole


def test_the_learning_rate_follows_its_schedule_by_steps_and_not_by_batches():
    """Trap 32."""
    recipe = a_recipe(steps=4, lr_scheduler="linear", gradient_accumulation=4, learning_rate=1e-3)
    state, go = a_state(recipe)
    rates = []
    for _ in range(4):
        rates.append(state.optimizer.param_groups[0]["lr"])
        go(1)
    assert rates == pytest.approx([1e-3, 0.75e-3, 0.5e-3, 0.25e-3])
    assert state.average.optimization_step == 4
