"""One step over all parameters together is the steps over each, bit for bit; so is what is saved of them."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from lora.training.recipe.optimizers import load_optimizer_state, make_optimizer, optimizer_state
from lora.training.recipe.stepping import BLOCKWISE, ELEMENTWISE, Stepper, can_be_joined
from tests.tiny import a_recipe, assert_one_sentence

SHAPES = [(16, 256), (512, 16), (16, 320), (768, 16)]  # blocks of 256, no less than 4096
JOINED = (*ELEMENTWISE, *BLOCKWISE)


def parameters(shapes=SHAPES):
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def gradients(step, shapes=SHAPES):
    generator = torch.Generator().manual_seed(100 + step)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def each_by_itself(recipe, own):
    rates = {"learning_rate": recipe.learning_rate, "weight_decay": recipe.weight_decay, "epsilon": recipe.epsilon}
    return make_optimizer(recipe.optimizer, own, **rates)


def a_recipe_with(optimizer):
    return replace(a_recipe(), optimizer=optimizer, learning_rate=1e-2, weight_decay=0.1)


def go(stepper, own, steps):
    """Gradients come by a backward pass, in two parts."""
    for step in steps:
        for half in (0.25, 0.75):
            sum((each * grad).sum() * half for each, grad in zip(own, gradients(step), strict=True)).backward()
        stepper.step()
        stepper.zero_grad()


def go_by_itself(optimizer, own, steps):
    for step in steps:
        for half in (0.25, 0.75):
            sum((each * grad).sum() * half for each, grad in zip(own, gradients(step), strict=True)).backward()
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


@pytest.mark.parametrize("optimizer", JOINED)
def test_weights_and_what_is_saved_are_those_of_each_parameter_by_itself(optimizer):
    recipe, own, others = a_recipe_with(optimizer), parameters(), parameters()
    stepper, alone = Stepper(recipe, own), each_by_itself(recipe, others)
    assert_same_state(stepper.state(), optimizer_state(alone))
    go(stepper, own, range(3))
    go_by_itself(alone, others, range(3))
    assert_same(own, others)
    assert_same_state(stepper.state(), optimizer_state(alone))


@pytest.mark.parametrize("optimizer", JOINED)
def test_a_state_goes_from_one_to_the_other_and_on_bit_for_bit(optimizer):
    recipe, own, others = a_recipe_with(optimizer), parameters(), parameters()
    stepper, alone = Stepper(recipe, own), each_by_itself(recipe, others)
    go_by_itself(alone, others, range(2))
    tensors, values = optimizer_state(alone)
    with torch.no_grad():
        torch._foreach_copy_(list(own), list(others))
    stepper.load(tensors, json.loads(json.dumps(values)))
    assert_same_state(stepper.state(), (tensors, values))
    go(stepper, own, range(2, 4))
    go_by_itself(alone, others, range(2, 4))
    assert_same(own, others)
    back = each_by_itself(recipe, parameters())
    load_optimizer_state(back, *stepper.state())
    assert_same_state(optimizer_state(back), optimizer_state(alone))


@pytest.mark.parametrize("optimizer", JOINED)
def test_a_state_before_the_first_step_can_be_taken_up_too(optimizer):
    recipe, own, others = a_recipe_with(optimizer), parameters(), parameters()
    stepper = Stepper(recipe, own)
    stepper.load(*Stepper(recipe, parameters()).state())
    go(stepper, own, range(2))
    go_by_itself(each_by_itself(recipe, others), others, range(2))
    assert_same(own, others)


def test_as_many_blocks_as_codes_in_a_table_are_not_taken_for_one():
    """256 of each: bitsandbytes' table of codes has a value for none of the blocks."""
    recipe, shapes = a_recipe_with("adamw8bit"), [(16, 2048), (2048, 16)]
    stepper, alone = Stepper(recipe, own := parameters(shapes)), each_by_itself(recipe, others := parameters(shapes))
    for some, optimizer in ((own, stepper), (others, alone)):
        for parameter, gradient in zip(some, gradients(0, shapes), strict=True):
            parameter.grad = gradient
        optimizer.step()
    assert_same_state(stepper.state(), optimizer_state(alone))


def test_the_optimizer_knows_one_parameter_and_the_others_are_parts_of_it():
    own = parameters()
    before = list(own)
    stepper = Stepper(a_recipe_with("adamw8bit"), own)
    (whole,) = (each for group in stepper.optimizer.param_groups for each in group["params"])
    go(stepper, own, range(1))
    for of_whole, parts in ((whole, own), (whole.grad, [each.grad for each in own])):
        assert {each.untyped_storage().data_ptr() for each in parts} == {of_whole.untyped_storage().data_ptr()}
    assert all(one is other for one, other in zip(own, before, strict=True))


def test_gradients_that_are_given_from_elsewhere_count():
    recipe, own, others = a_recipe_with("adamw"), parameters(), parameters()
    stepper, alone = Stepper(recipe, own), each_by_itself(recipe, others)
    go(stepper, own, range(1))
    go_by_itself(alone, others, range(1))
    for some in (own, others):
        for parameter, gradient in zip(some, gradients(7), strict=True):
            parameter.grad = gradient
    stepper.step()
    alone.step()
    assert_same(own, others)
    stepper.zero_grad()
    alone.zero_grad()
    go(stepper, own, range(2))
    go_by_itself(alone, others, range(2))
    assert_same(own, others)


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
def test_only_what_computes_the_same_is_joined(optimizer, shapes, expected):
    assert can_be_joined(optimizer, parameters(shapes)) is expected


def test_a_state_of_some_parameters_only_is_refused():
    recipe = a_recipe_with("adamw")
    stepper, other = Stepper(recipe, parameters()), Stepper(recipe, own := parameters())
    go(other, own, range(1))
    tensors, values = other.state()
    some = {key: tensor for key, tensor in tensors.items() if not key.startswith("1.")}
    with pytest.raises(ValueError) as error:
        stepper.load(some, {**values, "numbers": {}})
    assert_one_sentence(error.value, "not of this optimizer", "3 of the 4 parameters")


def test_parameters_that_disagree_about_the_step_are_refused():
    recipe = a_recipe_with("adamw")
    stepper, other = Stepper(recipe, parameters()), Stepper(recipe, own := parameters())
    go(other, own, range(1))
    tensors, values = other.state()
    with pytest.raises(ValueError, match="parameters differ in what all have alike"):
        stepper.load({**tensors, "1.step": tensors["1.step"] + 1}, values)
