"""What an 8-bit layer answers is exactly the product of what was rounded, and nearly that of what was not."""

import pytest
import torch
from torch import nn

from lora.flux.eight_bit import W8A8Linear, int8_product, round_rows
from tests.tiny import assert_one_sentence

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


def held(layer):
    rounded = W8A8Linear(layer)
    rounded.hold(layer.weight)
    return rounded


def relative_error(found, expected):
    return ((found.double() - expected).norm() / expected.norm()).item()


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """The product refuses what it refuses on a GPU, in the words of aten/src/ATen/native/cuda/Blas.cpp."""
    whole = torch._int_mm

    def product(rows, columns):
        assert rows.shape[0] > 16, f"self.size(0) needs to be greater than 16, but got {rows.shape[0]}"
        assert rows.shape[1] % 8 == columns.shape[1] % 8 == 0
        return whole(rows, columns)

    monkeypatch.setattr(torch, "_int_mm", product)


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("rows", ROWS)
def test_a_product_of_codes_is_exact_however_few_rows_there_are(rows):
    codes, weight = random_codes(rows, 15360), random_codes(8, 15360, seed=2)
    assert torch.equal(int8_product(codes, weight).long(), codes.long() @ weight.long().T)


def test_numbers_are_rounded_by_less_than_half_a_step_of_their_row():
    rows = random(5, INPUTS) * torch.tensor([1e-30, 1e-3, 1.0, 1e3, 1e30])[:, None]
    codes, scales = round_rows(rows)
    assert ((codes * scales - rows).abs() <= scales * 0.50001).all()
    assert (codes.abs().amax(1) == 127).all()


def test_both_signs_are_rounded_alike():
    rows = random(5, INPUTS)
    (codes, scales), (others, same) = round_rows(rows), round_rows(-rows)
    assert torch.equal(codes, -others)
    assert torch.equal(scales, same)


def test_a_row_of_zeros_stays_zero():
    codes, scales = round_rows(torch.zeros(2, 8))
    assert torch.equal(codes, torch.zeros(2, 8, dtype=torch.int8))
    assert (scales > 0).all()  # nothing was divided by zero, which int8 would hide


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_answers_with_the_product_of_what_was_rounded(rows, bias):
    layer, x = plain(bias=bias), random(rows, INPUTS)
    (codes, scales), (weights, steps) = round_rows(x), round_rows(layer.weight)
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
    before = rounded.codes.data_ptr(), rounded.scales.data_ptr()
    rounded.hold(other)
    assert (rounded.codes.data_ptr(), rounded.scales.data_ptr()) == before
    codes, scales = round_rows(other)
    assert torch.equal(rounded.codes, codes)
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
        W8A8Linear(plain(outputs=36))
    assert_one_sentence(error.value, "36 x 96", "multiples of 8")
