"""LoRA layers in the model's own precision have PEFT's outputs and gradients, and keep only the trained weights in
fp32."""

import pytest
import torch

from lora.engine.lora_layers import FusedLoraLinear, is_fused, lora_layers, without_lora
from lora.families.frozen_transformer import WeightPlacement, load_transformer
from lora.training.learning.adapter import lora_tensors
from lora.training.learning.data_parallel import SingleProcess
from lora.training.learning.loop import take_step
from lora.training.learning.state import TrainingState
from tests.lora.engine.comparing import (
    CPU,
    FLUX2,
    cosine,
    error,
    fused,
    loss_and_gradients,
    loss_of,
    small,
    small_inputs,
    with_lora,
)
from tests.tiny import a_recipe, lora_parameters, tiny_batches, tiny_lora_transformer, trained

BF16, FP32 = torch.bfloat16, torch.float32


@pytest.mark.parametrize(("precision", "on_host"), [("fp32", False), ("int8", True), ("nf4", False)])
def test_in_fp32_loss_and_gradients_are_those_of_peft(folder_and_inputs, precision, on_host):
    folder, inputs = folder_and_inputs
    placement = WeightPlacement(precision, on_host, CPU)
    reference, ours = (with_lora(load_transformer(folder, placement)) for _ in range(2))
    found, expected = loss_and_gradients(fused(ours), inputs), loss_and_gradients(reference, inputs)
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    assert error(found, expected) < 1e-5
    assert all(gradient.any() for gradient in found.gradients.values())


def test_in_bf16_loss_and_gradients_are_those_of_fp32(model):
    inputs = small_inputs(model)
    found = loss_and_gradients(fused(small(BF16, model)), inputs)
    exact = loss_and_gradients(small(FP32, model), inputs)
    assert found.loss == pytest.approx(exact.loss, rel=1e-3)
    assert cosine(found, exact) >= 0.999


def test_without_its_lora_a_model_computes_as_the_base_alone_bit_for_bit(model):
    inputs, ours = small_inputs(model), fused(small(FP32, model))
    alone = loss_of(model.transformer(dtype=BF16).to(FP32), inputs)
    assert loss_of(ours, inputs) != alone
    with without_lora(lora_layers(ours)):
        assert loss_of(ours, inputs) == alone


def test_a_layer_has_its_lora_again_afterwards_before_the_next_forward_pass():
    """A block that is recomputed in a backward pass may be called before it."""
    transformer = fused(small(FP32))
    layer, layers = transformer.transformer_blocks[0].attn.to_q, lora_layers(transformer)
    x = torch.randn(3, layer.in_features, generator=torch.Generator().manual_seed(1))
    with_its_lora = layer(x)
    with pytest.raises(RuntimeError, match="in the midst"), without_lora(layers):
        assert torch.equal(layer(x), layer.base_layer(x))
        raise RuntimeError("in the midst")
    assert torch.equal(layer(x), with_its_lora)
    assert not torch.equal(with_its_lora, layer.base_layer(x))


def test_every_layer_is_fused_and_remains_a_lora_layer_to_peft(model):
    reference, fused_model = small(BF16, model), fused(small(BF16, model))
    assert (is_fused(reference), is_fused(fused_model)) == (False, True)
    assert sum(isinstance(each, FusedLoraLinear) for each in fused_model.modules()) == model.layers
    parameters = dict(fused_model.named_parameters())
    assert parameters.keys() == dict(reference.named_parameters()).keys()
    assert {each.dtype for each in lora_parameters(fused_model).values()} == {FP32}
    saved, expected = lora_tensors(fused_model), lora_tensors(reference)
    assert saved.keys() == expected.keys()
    assert all(torch.equal(saved[name], tensor) for name, tensor in expected.items())


def layer_and_input(*, bias=True):
    """A layer of a bf16 model, with a bias or, as in FLUX.2, without one, and tokens as its input."""
    layer = (
        fused(small(BF16)).transformer_blocks[0].ff.net[0].proj
        if bias
        else fused(small(BF16, FLUX2)).transformer_blocks[0].ff.linear_in
    )
    return layer, torch.randn(2, 5, layer.in_features, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("bias", [True, False])
def test_the_output_and_gradients_of_a_layer_follow_the_formula(bias):
    """Compared with W x + b + scale B A x in fp64; scale is not 1, as alpha differs from the rank."""
    layer, x = layer_and_input(bias=bias)
    layer.scaling["default"] = 0.5
    down, up, weight = (each.double() for each in (layer.down, layer.up, layer.base_layer.weight))
    x, weights = x.to(BF16).requires_grad_(), [down.requires_grad_(), up.requires_grad_()]
    exact = x.detach().double().requires_grad_()
    expected = exact @ weight.T + (layer.base_layer.bias.double() if bias else 0) + 0.5 * (exact @ down.T @ up.T)
    output_gradient = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2)).to(BF16)
    expected_gradients = torch.autograd.grad(expected, [exact, *weights], output_gradient.double())
    output = layer(x)
    found = torch.autograd.grad(output, [x, *layer.master_weights], output_gradient)
    assert [each.dtype for each in (output, *found)] == [BF16, BF16, FP32, FP32]
    for one, other in zip((output, *found), (expected, *expected_gradients), strict=True):
        assert (one.double() - other).norm() / other.norm() < 5e-3


def test_a_layer_keeps_its_input_and_the_low_rank_product_but_nothing_in_fp32():
    layer, x = layer_and_input()
    x = x.to(BF16).requires_grad_() * 1
    own = {each.data_ptr() for each in (layer.base_layer.weight, layer.down, layer.up)}
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        layer(x)
    others = [tensor for tensor in kept if tensor.data_ptr() not in own]
    assert {tensor.dtype for tensor in kept} == {BF16}
    assert sorted(tuple(tensor.shape) for tensor in others) == [(2, 5, 32), (10, 4)]


def test_the_copies_follow_every_change_of_the_weights():
    """The optimizer, the weight average during validation and checkpoints change the weights, and know of no copies."""
    fused_model, inputs = fused(small(BF16)), small_inputs()
    recipe = a_recipe(steps=2, learning_rate=1e-2)
    trained(fused_model, recipe)  # leaves the average in the weights
    fresh = small(BF16)
    for name, parameter in lora_parameters(fresh).items():
        parameter.data.copy_(lora_parameters(fused_model)[name])
    assert loss_and_gradients(fused_model, inputs).loss == loss_and_gradients(fused(fresh), inputs).loss
    with torch.no_grad():
        torch._foreach_zero_(list(lora_parameters(fused_model).values()))
    assert loss_and_gradients(fused_model, inputs).loss == loss_and_gradients(fused_with_zero_lora(), inputs).loss


def fused_with_zero_lora():
    """With a LoRA that changes nothing."""
    return fused(tiny_lora_transformer(dtype=BF16))


def test_gradients_of_several_batches_are_added_in_fp32():
    """Added to 1, a thousandth is lost in bf16."""
    layer, x = layer_and_input()
    x, (_, up) = x.to(BF16), layer.master_weights
    layer(x).sum().backward()
    once = up.grad.clone()
    (layer(x).sum() / 1024).backward()
    torch.testing.assert_close(up.grad, once * (1 + 1 / 1024), rtol=1e-6, atol=0)
    assert not torch.equal(up.grad, once)
    assert torch.equal(once, once.to(BF16).float())


def test_a_step_too_small_for_bf16_still_changes_the_trained_weights():
    fused_model = fused(small(BF16))
    before = {name: each.detach().clone() for name, each in lora_parameters(fused_model).items()}
    recipe = a_recipe(steps=1, learning_rate=1e-6)
    state = TrainingState(fused_model, recipe)
    take_step(fused_model, state, tiny_batches(recipe), recipe, process_group=SingleProcess())
    moved = [(each.detach() != before[name]).float().mean() for name, each in lora_parameters(fused_model).items()]
    assert min(moved) > 0.5


def test_the_engine_computes_without_autocast_and_peft_with_it():
    seen = []
    for transformer in (fused(small(BF16)), small(BF16)):
        transformer.register_forward_pre_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
        loss_and_gradients(transformer, small_inputs())
    assert seen == [False, True]
