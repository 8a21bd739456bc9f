"""The state of a training can be saved and restored bit for bit."""

import json

import pytest
import torch

from lora.training.learning.data_parallel import SingleProcess
from lora.training.learning.loop import take_step
from lora.training.learning.state import TrainingState
from tests.tiny import a_recipe, tiny_batches, tiny_lora_transformer

STEPS = 12


def make_state(recipe):
    """A state, and a function that takes steps with it."""
    transformer = tiny_lora_transformer(rank=recipe.lora_rank)
    state, batches = TrainingState(transformer, recipe), tiny_batches(recipe)

    def take_steps(steps):
        for _ in range(steps):
            take_step(transformer, state, batches, recipe, process_group=SingleProcess())

    return state, take_steps


def copies_of(tensors):
    return [tensor.detach().clone() for tensor in tensors]


def are_same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def contents_of(state):
    """Copies of all tensors and values of a state."""
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
def test_a_restored_state_continues_bit_for_bit(optimizer, scheduler):
    """Trap 39. At rank 64, where the state of adamw8bit really has 8 bits."""
    rate = 1.0 if optimizer == "prodigy" else 1e-3
    recipe = a_recipe(steps=STEPS, optimizer=optimizer, learning_rate=rate, lr_scheduler=scheduler, lora_rank=64)
    (state, take_steps), (other, other_steps) = make_state(recipe), make_state(recipe)
    take_steps(4)
    saved, values = state.tensors(), json.loads(json.dumps(state.values()))
    other.restore({group: {name: each.clone() for name, each in of.items()} for group, of in saved.items()}, values)
    assert_same(contents_of(other), contents_of(state))
    take_steps(3)
    other_steps(3)
    assert other.step == 7
    assert_same(contents_of(other), contents_of(state))
    if optimizer == "adamw8bit":
        assert any(tensor.dtype == torch.uint8 for tensor in saved["optimizer"].values()), "trap 20"


def test_a_state_of_another_rank_is_refused():
    state, _ = make_state(a_recipe(lora_rank=4))
    other, _ = make_state(a_recipe(lora_rank=8))
    with pytest.raises(ValueError, match="the layers or the rank of the saved LoRA"):
        state.restore(other.tensors(), other.values())


def test_an_average_of_another_rank_is_refused():
    state, _ = make_state(a_recipe(lora_rank=4))
    other, _ = make_state(a_recipe(lora_rank=8))
    with pytest.raises(ValueError, match="the layers or the rank of the saved LoRA"):
        state.load_average(other.tensors()["average"])


def averages_of(state, take_steps, steps):
    """The weights and their average after each step."""
    found = []
    for _ in range(steps):
        take_steps(1)
        found.append((copies_of(state.parameters), copies_of(state.average.shadow_params)))
    return found


def test_the_average_is_warmed_up():
    """Trap 30: it starts with the weights of the first step; then its decay is 2/11, 3/12 and so on, at most 0.99."""
    found = averages_of(*make_state(a_recipe(steps=STEPS)), STEPS)
    expected = found[0][0]
    for count, (weights, average) in enumerate(found):
        decay = min(0.99, (1 + count) / (10 + count)) if count else 0.0
        expected = [decay * old + (1 - decay) * new for old, new in zip(expected, weights, strict=True)]
        assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-7) for a, b in zip(average, expected, strict=True)), count
    assert not are_same(*found[-1])


def test_without_warm_up_the_average_has_its_full_decay_from_the_start():
    found = averages_of(*make_state(a_recipe(steps=3, ema_decay=0.9, ema_warms_up=False)), 3)
    expected = found[0][0]
    for weights, average in found[1:]:
        expected = [0.9 * old + 0.1 * new for old, new in zip(expected, weights, strict=True)]
        assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-7) for a, b in zip(average, expected, strict=True))


def test_without_decay_the_average_equals_the_weights():
    for weights, average in averages_of(*make_state(a_recipe(ema_decay=0.0)), 3):
        assert all(torch.allclose(a, b, atol=1e-8) for a, b in zip(weights, average, strict=True))


def test_the_average_converges_to_constant_weights():
    """Trap 30: in bf16 it would stop at a distance."""
    state, _ = make_state(a_recipe(ema_decay=0.99))
    state.average.step(state.parameters)
    with torch.no_grad():
        for parameter in state.parameters:
            parameter.fill_(0.0204)
    for _ in range(1500):
        state.average.step(state.parameters)
    assert all(average.dtype == torch.float32 for average in state.average.shadow_params)
    assert all((average - 0.0204).abs().max() < 1e-5 for average in state.average.shadow_params)


def test_the_averaged_weights_are_replaced_by_the_original_ones_bit_for_bit():
    """Trap 31."""
    state, take_steps = make_state(a_recipe(steps=STEPS))
    take_steps(5)
    before, average = contents_of(state), copies_of(state.average.shadow_params)
    with state.averaged():
        assert are_same(state.parameters, average)
        assert not state.is_consistent
    assert state.is_consistent
    assert_same(contents_of(state), before)


def test_the_original_weights_are_restored_after_an_interruption():
    """Trap 31."""
    state, take_steps = make_state(a_recipe(steps=STEPS))
    take_steps(5)
    before = contents_of(state)
    with pytest.raises(KeyboardInterrupt), state.averaged():
        raise KeyboardInterrupt
    assert state.is_consistent
    assert_same(contents_of(state), before)


def test_using_the_averaged_weights_does_not_affect_the_training():
    """Trap 31."""
    (state, take_steps), (other, other_steps) = make_state(a_recipe(steps=STEPS)), make_state(a_recipe(steps=STEPS))
    for _ in range(4):
        take_steps(1)
        other_steps(1)
        with state.averaged():
            state.tensors()
    assert_same(contents_of(state), contents_of(other))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(value):
    state, take_steps = make_state(a_recipe(steps=STEPS))
    take_steps(3)
    (tensors, _), values = contents_of(state), state.values()
    for parameter in state.parameters:
        parameter.grad = torch.ones_like(parameter)
    state.parameters[0].grad[0, 0] = value
    assert not state.clip().isfinite()
    state.update(is_finite=False)
    assert [name for name, tensor in contents_of(state)[0].items() if not torch.equal(tensor, tensors[name])] == []
    counts = {"step": 4, "skipped": 1, "skipped_in_a_row": 1}
    assert state.values() == {**values, **counts}
    assert not any(parameter.grad.any() for parameter in state.parameters)
    take_steps(1)
    assert (state.step, state.skipped, state.skipped_in_a_row) == (5, 1, 0)


def test_a_state_that_is_interrupted_in_a_step_is_not_consistent():
    state, take_steps = make_state(a_recipe(steps=STEPS))
    take_steps(1)
    assert state.is_consistent

    def interrupt(*_):
        raise KeyboardInterrupt

    state.optimizer.register_step_post_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        take_steps(1)
    assert not state.is_consistent


def test_the_learning_rate_follows_its_schedule_by_steps_and_not_by_batches():
    """Trap 32."""
    recipe = a_recipe(steps=4, lr_scheduler="linear", gradient_accumulation=4, learning_rate=1e-3)
    state, take_steps = make_state(recipe)
    rates = []
    for _ in range(4):
        rates.append(state.optimizer.param_groups[0]["lr"])
        take_steps(1)
    assert rates == pytest.approx([1e-3, 0.75e-3, 0.5e-3, 0.25e-3])
    assert state.average.optimization_step == 4
