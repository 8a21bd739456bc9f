"""A step of one flat parameter equals the steps of separate parameters bit for bit, and so does the saved state."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from lora.training.recipe.optimizers import load_optimizer_state, make_optimizer, optimizer_state
from lora.training.recipe.stepping import BLOCKWISE, ELEMENTWISE, FlatOptimizer, can_be_flattened
from tests.tiny import a_recipe, assert_one_sentence

SHAPES = [(16, 256), (512, 16), (16, 320), (768, 16)]  # blocks of 256, no less than 4096
FLATTENED = (*ELEMENTWISE, *BLOCKWISE)


def parameters(shapes=SHAPES):
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def gradients(step, shapes=SHAPES):
    generator = torch.Generator().manual_seed(100 + step)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def separate_optimizer(recipe, trained):
    rates = {"learning_rate": recipe.learning_rate, "weight_decay": recipe.weight_decay, "epsilon": recipe.epsilon}
    return make_optimizer(recipe.optimizer, trained, **rates)


def a_recipe_with(optimizer):
    return replace(a_recipe(), optimizer=optimizer, learning_rate=1e-2, weight_decay=0.1)


def take_steps(flat_optimizer, trained, steps):
    """Take steps with gradients from two backward passes each."""
    for step in steps:
        for half in (0.25, 0.75):
            sum((each * grad).sum() * half for each, grad in zip(trained, gradients(step), strict=True)).backward()
        flat_optimizer.step()
        flat_optimizer.zero_grad()


def take_separate_steps(optimizer, trained, steps):
    for step in steps:
        for half in (0.25, 0.75):
            sum((each * grad).sum() * half for each, grad in zip(trained, gradients(step), strict=True)).backward()
        optimizer.step()
        optimizer.zero_grad()


def assert_same(some, others):
    assert all(torch.equal(one, other) for one, other in zip(some, others, strict=True))


def assert_same_state(one, other):
    (tensors, values), (other_tensors, other_values) = one, other
    assert tensors.keys() == other_tensors.keys()
    for name, tensor in other_tensors.items():
        assert (tensors[name].shape, tensors[name].dtype) == (tensor.shape, tensor.dtype)
        assert torch.equal(tensors[name], tensor)
    assert json.dumps(values) == json.dumps(other_values)


@pytest.mark.parametrize("optimizer", FLATTENED)
def test_weights_and_saved_state_equal_those_of_separate_parameters(optimizer):
    recipe, flattened, separate = a_recipe_with(optimizer), parameters(), parameters()
    flat_optimizer, reference = FlatOptimizer(recipe, flattened), separate_optimizer(recipe, separate)
    assert_same_state(flat_optimizer.state(), optimizer_state(reference))
    take_steps(flat_optimizer, flattened, range(3))
    take_separate_steps(reference, separate, range(3))
    assert_same(flattened, separate)
    assert_same_state(flat_optimizer.state(), optimizer_state(reference))


@pytest.mark.parametrize("optimizer", FLATTENED)
def test_states_can_be_exchanged_with_an_optimizer_of_separate_parameters_bit_for_bit(optimizer):
    recipe, flattened, separate = a_recipe_with(optimizer), parameters(), parameters()
    flat_optimizer, reference = FlatOptimizer(recipe, flattened), separate_optimizer(recipe, separate)
    take_separate_steps(reference, separate, range(2))
    tensors, values = optimizer_state(reference)
    with torch.no_grad():
        torch._foreach_copy_(list(flattened), list(separate))
    flat_optimizer.load(tensors, json.loads(json.dumps(values)))
    assert_same_state(flat_optimizer.state(), (tensors, values))
    take_steps(flat_optimizer, flattened, range(2, 4))
    take_separate_steps(reference, separate, range(2, 4))
    assert_same(flattened, separate)
    back = separate_optimizer(recipe, parameters())
    load_optimizer_state(back, *flat_optimizer.state())
    assert_same_state(optimizer_state(back), optimizer_state(reference))


@pytest.mark.parametrize("optimizer", FLATTENED)
def test_a_state_before_the_first_step_can_be_loaded_too(optimizer):
    recipe, flattened, separate = a_recipe_with(optimizer), parameters(), parameters()
    flat_optimizer = FlatOptimizer(recipe, flattened)
    flat_optimizer.load(*FlatOptimizer(recipe, parameters()).state())
    take_steps(flat_optimizer, flattened, range(2))
    take_separate_steps(separate_optimizer(recipe, separate), separate, range(2))
    assert_same(flattened, separate)


def test_a_code_table_with_as_many_entries_as_blocks_is_not_split():
    """Both have 256 entries; bitsandbytes' code table has no entry for a block."""
    recipe, shapes = a_recipe_with("adamw8bit"), [(16, 2048), (2048, 16)]
    flat_optimizer, reference = (
        FlatOptimizer(recipe, flattened := parameters(shapes)),
        separate_optimizer(recipe, separate := parameters(shapes)),
    )
    for some, optimizer in ((flattened, flat_optimizer), (separate, reference)):
        for parameter, gradient in zip(some, gradients(0, shapes), strict=True):
            parameter.grad = gradient
        optimizer.step()
    assert_same_state(flat_optimizer.state(), optimizer_state(reference))


def test_the_optimizer_has_one_parameter_and_the_others_are_views_of_it():
    flattened = parameters()
    before = list(flattened)
    flat_optimizer = FlatOptimizer(a_recipe_with("adamw8bit"), flattened)
    (flat,) = (each for group in flat_optimizer.optimizer.param_groups for each in group["params"])
    take_steps(flat_optimizer, flattened, range(1))
    for of_flat, parts in ((flat, flattened), (flat.grad, [each.grad for each in flattened])):
        assert {each.untyped_storage().data_ptr() for each in parts} == {of_flat.untyped_storage().data_ptr()}
    assert all(one is other for one, other in zip(flattened, before, strict=True))


def test_gradients_that_are_not_views_of_the_flat_one_count():
    recipe, flattened, separate = a_recipe_with("adamw"), parameters(), parameters()
    flat_optimizer, reference = FlatOptimizer(recipe, flattened), separate_optimizer(recipe, separate)
    take_steps(flat_optimizer, flattened, range(1))
    take_separate_steps(reference, separate, range(1))
    for some in (flattened, separate):
        for parameter, gradient in zip(some, gradients(7), strict=True):
            parameter.grad = gradient
    flat_optimizer.step()
    reference.step()
    assert_same(flattened, separate)
    flat_optimizer.zero_grad()
    reference.zero_grad()
    take_steps(flat_optimizer, flattened, range(2))
    take_separate_steps(reference, separate, range(2))
    assert_same(flattened, separate)


@pytest.mark.parametrize(
    ("optimizer", "shapes", "expected"),
    [
        ("adamw8bit", SHAPES, True),
        ("adamw8bit", [*SHAPES, (16, 250)], False),  # its last block would have values of the next parameter
        ("adamw8bit", [*SHAPES, (8, 256)], False),  # bitsandbytes keeps it in 32 bits
        ("adamw", [(3, 5)], True),
        ("prodigy", SHAPES, False),
        ("adafactor", SHAPES, False),
    ],
)
def test_parameters_are_flattened_only_if_that_computes_the_same(optimizer, shapes, expected):
    assert can_be_flattened(optimizer, parameters(shapes)) is expected


def test_a_state_of_some_parameters_only_is_refused():
    recipe = a_recipe_with("adamw")
    flat_optimizer, other = FlatOptimizer(recipe, parameters()), FlatOptimizer(recipe, flattened := parameters())
    take_steps(other, flattened, range(1))
    tensors, values = other.state()
    some = {key: tensor for key, tensor in tensors.items() if not key.startswith("1.")}
    with pytest.raises(ValueError) as error:
        flat_optimizer.load(some, {**values, "numbers": {}})
    assert_one_sentence(error.value, "does not match this optimizer", "3 of 4 parameters")


def test_parameters_that_disagree_about_the_step_are_refused():
    recipe = a_recipe_with("adamw")
    flat_optimizer, other = FlatOptimizer(recipe, parameters()), FlatOptimizer(recipe, flattened := parameters())
    take_steps(other, flattened, range(1))
    tensors, values = other.state()
    with pytest.raises(ValueError, match="parameters differ in a value that all of them share"):
        flat_optimizer.load({**tensors, "1.step": tensors["1.step"] + 1}, values)
