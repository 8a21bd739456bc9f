"""Layers in the model's own precision: PEFT's answers and gradients, with nothing kept in fp32 but what is trained."""

import pytest
import torch

from lora.engine.lora_layers import FusedLoraLinear, is_fused
from lora.training.learning.adapter import lora_tensors
from lora.training.learning.data_parallel import SingleProcess
from lora.training.learning.loop import take_step
from lora.training.learning.state import TrainingState
from tests.lora.engine.comparing import a_question, answer, cosine, error, fused, small, small_question, worn
from tests.tiny import LAYERS, a_recipe, lora_parameters, tiny_batches, tiny_lora_transformer, trained

BF16, FP32 = torch.bfloat16, torch.float32


@pytest.mark.parametrize(("precision", "on_host"), [("fp32", False), ("int8", True), ("nf4", False)])
def test_in_fp32_loss_and_gradients_are_pefts(precision, on_host):
    question = a_question()
    plain, engine = worn(precision, on_host=on_host), fused(worn(precision, on_host=on_host))
    found, expected = answer(engine, question), answer(plain, question)
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    assert error(found, expected) < 1e-5
    assert all(gradient.any() for gradient in found.gradients.values())


def test_in_bf16_loss_and_gradients_are_those_of_fp32():
    question = small_question()
    found, exact = answer(fused(small(BF16)), question), answer(small(FP32), question)
    assert found.loss == pytest.approx(exact.loss, rel=1e-3)
    assert cosine(found, exact) >= 0.999


def test_every_layer_is_fused_and_to_peft_is_what_it_was():
    plain, engine = small(BF16), fused(small(BF16))
    assert (is_fused(plain), is_fused(engine)) == (False, True)
    assert sum(isinstance(each, FusedLoraLinear) for each in engine.modules()) == LAYERS
    parameters = dict(engine.named_parameters())
    assert parameters.keys() == dict(plain.named_parameters()).keys()
    assert {each.dtype for each in lora_parameters(engine).values()} == {FP32}
    saved, expected = lora_tensors(engine), lora_tensors(plain)
    assert saved.keys() == expected.keys()
    assert all(torch.equal(saved[name], tensor) for name, tensor in expected.items())


def layer_and_input():
    """The first layer of a bf16 model that sees tokens, and tokens for it."""
    layer = fused(small(BF16)).transformer_blocks[0].ff.net[0].proj
    return layer, torch.randn(2, 5, layer.in_features, generator=torch.Generator().manual_seed(1))


def test_a_layers_answer_and_gradients_are_the_formulas():
    """Against W x + b + scale B A x in fp64; scale is not 1, as alpha is not the rank."""
    layer, x = layer_and_input()
    layer.scaling["default"] = 0.5
    down, up, weight = (each.double() for each in (layer.down, layer.up, layer.base_layer.weight))
    x, weights = x.to(BF16).requires_grad_(), [down.requires_grad_(), up.requires_grad_()]
    exact = x.detach().double().requires_grad_()
    expected = exact @ weight.T + layer.base_layer.bias.double() + 0.5 * (exact @ down.T @ up.T)
    pull = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2)).to(BF16)
    wanted = torch.autograd.grad(expected, [exact, *weights], pull.double())
    answered = layer(x)
    found = torch.autograd.grad(answered, [x, *layer.master_weights], pull)
    assert [each.dtype for each in (answered, *found)] == [BF16, BF16, FP32, FP32]
    for one, other in zip((answered, *found), (expected, *wanted), strict=True):
        assert (one.double() - other).norm() / other.norm() < 5e-3


def test_a_layer_keeps_its_input_and_the_low_rank_product_and_nothing_in_fp32():
    layer, x = layer_and_input()
    x = x.to(BF16).requires_grad_() * 1
    own = {each.data_ptr() for each in (layer.base_layer.weight, layer.down, layer.up)}
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        layer(x)
    others = [tensor for tensor in kept if tensor.data_ptr() not in own]
    assert {tensor.dtype for tensor in kept} == {BF16}
    assert sorted(tuple(tensor.shape) for tensor in others) == [(2, 5, 32), (10, 4)]


def test_what_is_computed_with_follows_whoever_changes_the_weights():
    """The optimizer, the average while it is judged, a checkpoint: none of them knows of copies."""
    engine, question = fused(small(BF16)), small_question()
    recipe = a_recipe(steps=2, learning_rate=1e-2)
    trained(engine, recipe)  # leaves the average in the weights
    fresh = small(BF16)
    for name, parameter in lora_parameters(fresh).items():
        parameter.data.copy_(lora_parameters(engine)[name])
    assert answer(engine, question).loss == answer(fused(fresh), question).loss
    with torch.no_grad():
        torch._foreach_zero_(list(lora_parameters(engine).values()))
    assert answer(engine, question).loss == answer(fused_bare(), question).loss


def fused_bare():
    """Wearing a LoRA that changes nothing."""
    return fused(tiny_lora_transformer(dtype=BF16))


def test_gradients_of_several_batches_are_added_in_fp32():
    """A thousandth beside a one is lost in bf16."""
    layer, x = layer_and_input()
    x, (_, up) = x.to(BF16), layer.master_weights
    layer(x).sum().backward()
    once = up.grad.clone()
    (layer(x).sum() / 1024).backward()
    torch.testing.assert_close(up.grad, once * (1 + 1 / 1024), rtol=1e-6, atol=0)
    assert not torch.equal(up.grad, once)
    assert torch.equal(once, once.to(BF16).float())


def test_a_step_too_small_for_bf16_still_moves_what_is_trained():
    engine = fused(small(BF16))
    before = {name: each.detach().clone() for name, each in lora_parameters(engine).items()}
    recipe = a_recipe(steps=1, learning_rate=1e-6)
    take_step(engine, TrainingState(engine, recipe), tiny_batches(recipe), recipe, team=SingleProcess())
    moved = [(each.detach() != before[name]).float().mean() for name, each in lora_parameters(engine).items()]
    assert min(moved) > 0.5


def test_the_engine_computes_without_autocast_and_peft_with_it():
    seen = []
    for transformer in (fused(small(BF16)), small(BF16)):
        transformer.register_forward_pre_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
        answer(transformer, small_question())
    assert seen == [False, True]
