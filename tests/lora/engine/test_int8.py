"""An 8-bit layer computes exactly the product of its rounded operands, and nearly that of the original ones; the same
holds for the gradient of its input."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lora.base.prompt import Prompt
from lora.engine.int8 import Int8Linear, W8A8Linear, int8_matmul, quantize_rows
from lora.families.frozen_transformer import WeightPlacement, load_transformer
from lora.training.learning.batches import Batch
from tests.lora.engine.comparing import (
    LossInputs,
    cosine,
    fused,
    loss_and_gradients,
    tiny_flux_with_lora,
    with_lora,
    world_inputs,
)
from tests.tiny import TINY_FLUX, assert_one_sentence

CPU = torch.device("cpu")
INPUTS, OUTPUTS = 96, 40
ROWS = [1, 16, 17, 33]  # a GPU multiplies no fewer than 17


def random(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_codes(*shape, seed=1):
    return torch.randint(-127, 128, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.int8)


def linear(*, bias=True, dtype=torch.float32, outputs=OUTPUTS):
    layer = nn.Linear(INPUTS, outputs, bias=bias, device="meta").to_empty(device="cpu").requires_grad_(False)
    layer.weight.copy_(random(outputs, INPUTS, seed=2))
    if bias:
        layer.bias.copy_(random(outputs, seed=3))
    return layer.to(dtype)


def quantized(layer, kind=W8A8Linear):
    rounded = kind(layer, dtype=layer.weight.dtype)
    rounded.store_weight(layer.weight, device=CPU, dtype=layer.weight.dtype)
    return rounded


def output_and_gradient(layer, x, output_gradient):
    """The output, and the gradient of the input when the gradient of the output is `output_gradient`."""
    x = x.clone().requires_grad_()
    output = layer(x)
    (output * output_gradient).sum().backward()
    return output.detach(), x.grad


def relative_error(found, expected):
    return ((found.double() - expected).norm() / expected.norm()).item()


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Makes the int8 product refuse on the CPU what it refuses on a GPU, with the messages of
    aten/src/ATen/native/cuda/Blas.cpp."""
    int_mm = torch._int_mm

    def product(rows, columns):
        assert rows.shape[0] > 16, f"self.size(0) needs to be greater than 16, but got {rows.shape[0]}"
        assert rows.shape[1] % 8 == columns.shape[1] % 8 == 0
        assert rows.is_contiguous()
        assert columns.T.is_contiguous(), "NN case not yet supported by cuBLAS"
        return int_mm(rows, columns)

    monkeypatch.setattr(torch, "_int_mm", product)


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("rows", ROWS)
def test_a_product_of_codes_is_exact_however_few_rows_there_are(rows):
    codes, weight = random_codes(rows, 15360), random_codes(8, 15360, seed=2)
    assert torch.equal(int8_matmul(codes, weight).long(), codes.long() @ weight.long().T)


def test_no_sum_of_the_largest_codes_overflows():
    """A sum over as many inputs as the widest layer of FLUX.1 has."""
    largest = torch.full((17, 15360), 127, dtype=torch.int8)
    assert (int8_matmul(largest, largest[:8]) == 127 * 127 * 15360).all()


def test_numbers_are_rounded_by_less_than_half_a_step_of_their_row():
    rows = random(5, INPUTS) * torch.tensor([1e-30, 1e-3, 1.0, 1e3, 1e30])[:, None]
    codes, scales = quantize_rows(rows)
    assert ((codes * scales - rows).abs() <= scales * 0.50001).all()
    assert (codes.abs().amax(1) == 127).all()


def test_both_signs_are_rounded_alike():
    rows = random(5, INPUTS)
    (codes, scales), (others, same) = quantize_rows(rows), quantize_rows(-rows)
    assert torch.equal(codes, -others)
    assert torch.equal(scales, same)


def test_a_row_of_zeros_stays_zero():
    codes, scales = quantize_rows(torch.zeros(2, 8))
    assert torch.equal(codes, torch.zeros(2, 8, dtype=torch.int8))
    assert (scales > 0).all()  # int8 would hide a division by zero


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_computes_the_product_of_the_rounded_operands(rows, bias):
    layer, x = linear(bias=bias), random(rows, INPUTS)
    (codes, scales), (weights, steps) = quantize_rows(x), quantize_rows(layer.weight)
    expected = (codes.double() * scales) @ (weights.double() * steps).T + (layer.bias if bias else 0)
    assert relative_error(quantized(layer)(x), expected) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_computes_nearly_the_same_as_a_plain_one_in_the_precision_of_its_input(dtype):
    layer, x = linear(dtype=dtype), random(2, 5, INPUTS).to(dtype)
    output, expected = quantized(layer)(x), layer.double()(x.double())
    assert output.shape == expected.shape
    assert output.dtype == dtype
    assert 0.001 < relative_error(output, expected) < 0.015


def test_a_token_does_not_change_the_output_of_another():
    layer, x = quantized(linear()), random(20, INPUTS)
    scaled = x * torch.cat([torch.full((10, 1), 1000.0), torch.ones(10, 1)])
    assert torch.equal(layer(scaled)[10:], layer(x)[10:])


def test_nan_inputs_are_not_hidden():
    x = random(3, INPUTS)
    x[1, 7] = torch.nan
    assert quantized(linear())(x).isnan().any(1).tolist() == [False, True, False]


def test_new_weights_overwrite_the_same_tensors():
    layer, other = linear(), random(OUTPUTS, INPUTS, seed=4)
    rounded = quantized(layer)
    before = rounded.weight.data_ptr(), rounded.scales.data_ptr()
    rounded.store_weight(other, device=CPU, dtype=torch.float32)
    assert (rounded.weight.data_ptr(), rounded.scales.data_ptr()) == before
    codes, scales = quantize_rows(other)
    assert torch.equal(rounded.weight, codes)
    assert torch.equal(rounded.scales, scales[:, 0])


def test_casting_the_model_rounds_no_scale():
    """Pipelines of diffusers cast their models when they are created from other pipelines."""
    rounded = quantized(linear())
    before = rounded.scales.clone()
    rounded.to(torch.bfloat16)
    assert torch.equal(rounded.scales, before)


def test_the_bias_is_shared_with_the_plain_layer():
    layer = linear()
    assert quantized(layer).bias is layer.bias


def test_sizes_that_gpus_do_not_support_are_refused():
    with pytest.raises(ValueError) as error:
        W8A8Linear(linear(outputs=36), dtype=torch.float32)
    assert_one_sentence(error.value, "36 x 96", "multiples of 8")


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("bias", [True, False])
def test_the_gradient_is_the_product_of_the_rounded_operands(rows, bias):
    """The scales of the weights' rows are applied before rounding, so the weights are not rounded again."""
    layer, output_gradient = linear(bias=bias), random(rows, OUTPUTS, seed=5)
    weights, steps = quantize_rows(layer.weight)
    codes, scales = quantize_rows(output_gradient * steps.T)
    _, found = output_and_gradient(quantized(layer), random(rows, INPUTS), output_gradient)
    assert relative_error(found, (codes.double() * scales) @ weights.double()) < 1e-6


def test_output_errors_are_within_the_bounds_of_rounding():
    """If x and w are off by half a scale each, a product is off by |x| s_w / 2 + |w| s_x / 2 + s_x s_w / 4 at most."""
    layer, x = linear(), random(20, INPUTS)
    steps, scales = quantize_rows(layer.weight)[1].double(), quantize_rows(x)[1].double()
    bound = x.double().abs().sum(1, keepdim=True) * steps.T / 2 + scales / 2 * layer.weight.double().abs().sum(1)
    bound += INPUTS * scales * steps.T / 4
    error = (quantized(layer)(x) - layer.double()(x.double())).abs()
    assert (error < bound).all()
    assert error.max() > bound.max() / 100  # so that the bound is not trivial


def test_gradient_errors_are_within_the_bounds_of_rounding():
    """With s, the scale of dY times s_w: s / 2 for each of its products with a code, and |dY| s_w / 2 for the codes."""
    layer, output_gradient = linear(), random(20, OUTPUTS, seed=5)
    codes, steps = (each.double() for each in quantize_rows(layer.weight))
    scales = quantize_rows(output_gradient * steps.T.float())[1].double()
    bound = scales / 2 * codes.abs().sum(0) + output_gradient.double().abs() @ steps / 2
    _, found = output_and_gradient(quantized(layer), random(20, INPUTS), output_gradient)
    error = (found - output_gradient.double() @ layer.weight.double()).abs()
    assert (error < bound).all()
    assert error.max() > bound.max() / 100


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_have_the_direction_of_those_of_the_plain_layer(dtype):
    layer, x, output_gradient = linear(dtype=dtype), random(2, 50, INPUTS).to(dtype), random(2, 50, OUTPUTS, seed=5)
    _, found = output_and_gradient(quantized(layer), x, output_gradient)
    _, expected = output_and_gradient(layer.double(), x.double(), output_gradient)
    assert found.dtype == dtype
    assert torch.cosine_similarity(found.double().flatten(), expected.flatten(), dim=0) > 0.9998
    assert 0.001 < relative_error(found, expected) < 0.015


@pytest.mark.parametrize("kind", [Int8Linear, W8A8Linear])
def test_only_codes_and_scales_are_kept_for_the_gradient(kind):
    layer, saved = quantized(linear(), kind), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        assert layer(random(20, INPUTS).requires_grad_()).requires_grad
    own = {layer.weight.data_ptr(), layer.scales.data_ptr()}
    assert len(saved) == 2
    assert {tensor.data_ptr() for tensor in saved} == own


@pytest.mark.parametrize("kind", [Int8Linear, W8A8Linear])
def test_compiled_layers_keep_no_weights_in_another_precision_either(kind):
    """Graphs of both directions are cut by the partitioner that real compilers use."""
    torch._dynamo.reset()
    layer, saved = quantized(linear(), kind), []
    compiled = torch.compile(layer.forward, backend="aot_eager_decomp_partition", fullgraph=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda each: saved.append(each) or each, lambda each: each):
        compiled(random(20, INPUTS).requires_grad_())
    assert {each.dtype for each in saved if each.numel() == layer.weight.numel()} == {torch.int8}


def test_recomputing_gives_the_same_bits():
    layers = nn.Sequential(quantized(linear(outputs=INPUTS)), nn.GELU(), quantized(linear()))
    x, output_gradient = random(20, INPUTS), random(20, OUTPUTS, seed=5)
    kept = output_and_gradient(layers, x, output_gradient)
    again = output_and_gradient(lambda x: checkpoint(layers, x, use_reentrant=False), x, output_gradient)
    assert all(torch.equal(one, other) for one, other in zip(kept, again, strict=True))


def test_one_compiled_graph_gives_the_same_bits_for_any_number_of_rows():
    torch._dynamo.reset()
    layer = quantized(linear())
    compiled = torch.compile(layer.forward, backend="aot_eager", fullgraph=True, dynamic=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for rows in (20, 5, 40):
            x, output_gradient = random(rows, INPUTS), random(rows, OUTPUTS, seed=5)
            found, expected = (output_and_gradient(each, x, output_gradient) for each in (compiled, layer))
            assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_nan_gradients_are_not_hidden():
    """Otherwise a step that has to be skipped would be taken."""
    output_gradient = random(3, OUTPUTS)
    output_gradient[1, 7] = torch.nan
    _, gradient = output_and_gradient(quantized(linear()), random(3, INPUTS), output_gradient)
    assert gradient.isnan().any(1).tolist() == [False, True, False]


@pytest.mark.parametrize("input_dtype", [torch.float32, torch.bfloat16])
def test_under_autocast_the_output_has_the_layers_precision_and_the_gradient_that_of_the_input(input_dtype):
    """Norms compute in fp32 under autocast: their output is rounded to 8 bits without a cast in between."""
    layer, x = quantized(linear(dtype=torch.bfloat16)), random(20, INPUTS).to(input_dtype)
    with torch.autocast("cpu", torch.bfloat16):
        output, gradient = output_and_gradient(layer, x, random(20, OUTPUTS, seed=5))
    assert (output.dtype, gradient.dtype) == (torch.bfloat16, input_dtype)


def first_of(inputs):
    prompt = inputs.batch.prompt
    batch = Batch(inputs.batch.latents[:1], Prompt(prompt.tokens[:1], prompt.pooled[:1]))
    return LossInputs(batch, inputs.noise[:1], inputs.sigmas[:1])


@pytest.mark.parametrize("matmul", ["int8", "bf16"])
def test_loss_and_gradients_of_the_whole_model_are_near_those_in_fp32(matmul):
    """At batch 1, on the embedded base and its world, for either matmul."""
    inputs = first_of(world_inputs())
    placement = WeightPlacement("int8", False, CPU, matmul=matmul)
    found = loss_and_gradients(fused(with_lora(load_transformer(TINY_FLUX, placement))), inputs)
    exact = loss_and_gradients(tiny_flux_with_lora("fp32"), inputs)
    print(f"\n{matmul}: loss {found.loss / exact.loss - 1:+.4%}, cosine {cosine(found, exact):.5f}")
    assert found.loss == pytest.approx(exact.loss, rel=0.01)
    assert cosine(found, exact) >= 0.99
