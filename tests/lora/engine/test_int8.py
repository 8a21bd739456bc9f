"""What an 8-bit layer answers is exactly the product of what was rounded, and nearly that of what was not; the same
holds for the gradient that it hands on."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lora.engine.int8 import Int8Linear, W8A8Linear, int8_matmul, quantize_rows, supports_int8_matmul
from tests.tiny import assert_one_sentence

CPU = torch.device("cpu")
INPUTS, OUTPUTS = 96, 40
ROWS = [1, 16, 17, 33]  # a GPU multiplies no fewer than 17


def random(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_codes(*shape, seed=1):
    return torch.randint(-127, 128, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.int8)


def plain(*, bias=True, dtype=torch.float32, outputs=OUTPUTS):
    layer = nn.Linear(INPUTS, outputs, bias=bias, device="meta").to_empty(device="cpu").requires_grad_(False)
    layer.weight.copy_(random(outputs, INPUTS, seed=2))
    if bias:
        layer.bias.copy_(random(outputs, seed=3))
    return layer.to(dtype)


def held(layer, kind=W8A8Linear):
    rounded = kind(layer, dtype=layer.weight.dtype)
    rounded.hold(layer.weight, device=CPU, dtype=layer.weight.dtype)
    return rounded


def answer_and_gradient(layer, x, weighed_by):
    """Of a sum over the answer, so that its gradient is `weighed_by`."""
    x = x.clone().requires_grad_()
    answer = layer(x)
    (answer * weighed_by).sum().backward()
    return answer.detach(), x.grad


def relative_error(found, expected):
    return ((found.double() - expected).norm() / expected.norm()).item()


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """The product refuses what it refuses on a GPU, in the words of aten/src/ATen/native/cuda/Blas.cpp."""
    whole = torch._int_mm

    def product(rows, columns):
        assert rows.shape[0] > 16, f"self.size(0) needs to be greater than 16, but got {rows.shape[0]}"
        assert rows.shape[1] % 8 == columns.shape[1] % 8 == 0
        assert rows.is_contiguous()
        assert columns.T.is_contiguous(), "NN case not yet supported by cuBLAS"
        return whole(rows, columns)

    monkeypatch.setattr(torch, "_int_mm", product)


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("rows", ROWS)
def test_a_product_of_codes_is_exact_however_few_rows_there_are(rows):
    codes, weight = random_codes(rows, 15360), random_codes(8, 15360, seed=2)
    assert torch.equal(int8_matmul(codes, weight).long(), codes.long() @ weight.long().T)


def test_no_sum_of_the_largest_codes_runs_over():
    """Of as many as the widest layer of FLUX.1 has."""
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
    assert (scales > 0).all()  # nothing was divided by zero, which int8 would hide


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_answers_with_the_product_of_what_was_rounded(rows, bias):
    layer, x = plain(bias=bias), random(rows, INPUTS)
    (codes, scales), (weights, steps) = quantize_rows(x), quantize_rows(layer.weight)
    expected = (codes.double() * scales) @ (weights.double() * steps).T + (layer.bias if bias else 0)
    assert relative_error(held(layer)(x), expected) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_answers_nearly_as_the_plain_one_in_the_precision_of_its_input(dtype):
    layer, x = plain(dtype=dtype), random(2, 5, INPUTS).to(dtype)
    answer, expected = held(layer)(x), layer.double()(x.double())
    assert answer.shape == expected.shape
    assert answer.dtype == dtype
    assert 0.001 < relative_error(answer, expected) < 0.015


def test_a_token_does_not_change_the_answer_to_another():
    layer, x = held(plain()), random(20, INPUTS)
    louder = x * torch.cat([torch.full((10, 1), 1000.0), torch.ones(10, 1)])
    assert torch.equal(layer(louder)[10:], layer(x)[10:])


def test_what_is_no_number_is_not_hidden():
    x = random(3, INPUTS)
    x[1, 7] = torch.nan
    assert held(plain())(x).isnan().any(1).tolist() == [False, True, False]


def test_new_weights_are_rounded_into_the_tensors_that_are_there():
    layer, other = plain(), random(OUTPUTS, INPUTS, seed=4)
    rounded = held(layer)
    before = rounded.weight.data_ptr(), rounded.scales.data_ptr()
    rounded.hold(other, device=CPU, dtype=torch.float32)
    assert (rounded.weight.data_ptr(), rounded.scales.data_ptr()) == before
    codes, scales = quantize_rows(other)
    assert torch.equal(rounded.weight, codes)
    assert torch.equal(rounded.scales, scales[:, 0])


def test_a_cast_of_the_model_rounds_no_scale():
    """Pipelines of diffusers cast their models when they are made from others."""
    rounded = held(plain())
    before = rounded.scales.clone()
    rounded.to(torch.bfloat16)
    assert torch.equal(rounded.scales, before)


def test_the_bias_is_that_of_the_plain_layer_itself():
    layer = plain()
    assert held(layer).bias is layer.bias


def test_sizes_that_no_gpu_multiplies_are_refused():
    with pytest.raises(ValueError) as error:
        W8A8Linear(plain(outputs=36), dtype=torch.float32)
    assert_one_sentence(error.value, "36 x 96", "multiples of 8")


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("bias", [True, False])
def test_the_gradient_is_the_product_of_what_was_rounded(rows, bias):
    """The scales of the weights' rows are in it before it is rounded, and the weights are not rounded anew."""
    layer, weighed_by = plain(bias=bias), random(rows, OUTPUTS, seed=5)
    weights, steps = quantize_rows(layer.weight)
    codes, scales = quantize_rows(weighed_by * steps.T)
    _, found = answer_and_gradient(held(layer), random(rows, INPUTS), weighed_by)
    assert relative_error(found, (codes.double() * scales) @ weights.double()) < 1e-6


def test_no_answer_is_further_off_than_rounding_explains():
    """With x and w off by half a scale each, a product is off by |x| s_w / 2 + |w| s_x / 2 + s_x s_w / 4 at most."""
    layer, x = plain(), random(20, INPUTS)
    steps, scales = quantize_rows(layer.weight)[1].double(), quantize_rows(x)[1].double()
    most = x.double().abs().sum(1, keepdim=True) * steps.T / 2 + scales / 2 * layer.weight.double().abs().sum(1)
    most += INPUTS * scales * steps.T / 4
    off = (held(layer)(x) - layer.double()(x.double())).abs()
    assert (off < most).all()
    assert off.max() > most.max() / 100  # so that the bound says something


def test_no_gradient_is_further_off_than_rounding_explains():
    """With s the scale of dY times s_w: s / 2 for each of its products with a code, and |dY| s_w / 2 for the codes."""
    layer, weighed_by = plain(), random(20, OUTPUTS, seed=5)
    codes, steps = (each.double() for each in quantize_rows(layer.weight))
    scales = quantize_rows(weighed_by * steps.T.float())[1].double()
    most = scales / 2 * codes.abs().sum(0) + weighed_by.double().abs() @ steps / 2
    _, found = answer_and_gradient(held(layer), random(20, INPUTS), weighed_by)
    off = (found - weighed_by.double() @ layer.weight.double()).abs()
    assert (off < most).all()
    assert off.max() > most.max() / 100


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_point_where_those_of_the_plain_layer_do(dtype):
    layer, x, weighed_by = plain(dtype=dtype), random(2, 50, INPUTS).to(dtype), random(2, 50, OUTPUTS, seed=5)
    _, found = answer_and_gradient(held(layer), x, weighed_by)
    _, expected = answer_and_gradient(layer.double(), x.double(), weighed_by)
    assert found.dtype == dtype
    assert torch.cosine_similarity(found.double().flatten(), expected.flatten(), dim=0) > 0.9998
    assert 0.001 < relative_error(found, expected) < 0.015


@pytest.mark.parametrize("kind", [Int8Linear, W8A8Linear])
def test_nothing_is_kept_for_the_gradient_but_codes_and_scales(kind):
    layer, saved = held(plain(), kind), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        assert layer(random(20, INPUTS).requires_grad_()).requires_grad
    own = {layer.weight.data_ptr(), layer.scales.data_ptr()}
    assert len(saved) == 2
    assert {tensor.data_ptr() for tensor in saved} == own


def test_recomputed_it_gives_the_same_bits():
    layers = nn.Sequential(held(plain(outputs=INPUTS)), nn.GELU(), held(plain()))
    x, weighed_by = random(20, INPUTS), random(20, OUTPUTS, seed=5)
    kept = answer_and_gradient(layers, x, weighed_by)
    again = answer_and_gradient(lambda x: checkpoint(layers, x, use_reentrant=False), x, weighed_by)
    assert all(torch.equal(one, other) for one, other in zip(kept, again, strict=True))


def test_compiled_once_it_gives_the_same_bits_for_any_number_of_rows():
    torch._dynamo.reset()
    layer = held(plain())
    compiled = torch.compile(layer.forward, backend="aot_eager", fullgraph=True, dynamic=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for rows in (20, 5, 40):
            x, weighed_by = random(rows, INPUTS), random(rows, OUTPUTS, seed=5)
            found, expected = (answer_and_gradient(each, x, weighed_by) for each in (compiled, layer))
            assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_a_gradient_that_is_no_number_is_not_hidden():
    """Else a step that has to be skipped would be taken."""
    weighed_by = random(3, OUTPUTS)
    weighed_by[1, 7] = torch.nan
    _, gradient = answer_and_gradient(held(plain()), random(3, INPUTS), weighed_by)
    assert gradient.isnan().any(1).tolist() == [False, True, False]


@pytest.mark.parametrize("seen", [torch.float32, torch.bfloat16])
def test_under_autocast_it_answers_in_its_precision_and_the_gradient_has_that_of_the_input(seen):
    """Norms work in fp32 there: their output is rounded to 8 bits as it is."""
    layer, x = held(plain(dtype=torch.bfloat16)), random(20, INPUTS).to(seen)
    with torch.autocast("cpu", torch.bfloat16):
        answer, gradient = answer_and_gradient(layer, x, random(20, OUTPUTS, seed=5))
    assert (answer.dtype, gradient.dtype) == (torch.bfloat16, seen)


@pytest.mark.parametrize(
    ("capability", "outputs", "multiplies"),
    [((9, 0), OUTPUTS, True), ((8, 0), OUTPUTS, True), ((7, 5), OUTPUTS, False), ((9, 0), 36, False)],
)
def test_gpus_from_ampere_on_multiply_layers_in_8_bits_if_sizes_allow(monkeypatch, capability, outputs, multiplies):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    assert supports_int8_matmul(plain(outputs=outputs), torch.device("cuda")) is multiplies
    assert not supports_int8_matmul(plain(), CPU)
