"""Linear layers that store their weights quantized or in host memory compute the same, and keep no more than needed."""

import weakref

import pytest
import torch
from torch import nn

from lora.engine.int8 import Int8Linear
from lora.engine.linears import HostLinear, Nf4Linear

CPU = torch.device("cpu")
INPUTS, OUTPUTS = 96, 40  # no multiple of a block of 64


def plain():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(INPUTS, OUTPUTS).requires_grad_(False)


def some_input(*, dtype=torch.float32):
    return torch.randn(2, 5, INPUTS, generator=torch.Generator().manual_seed(1)).to(dtype)


def stored(kind, *, dtype=torch.float32):
    """`plain` as a layer of another kind."""
    layer = plain()
    replacement = kind(layer) if kind is HostLinear else kind(layer, dtype=dtype)
    replacement.store_weight(layer.weight, device=CPU, dtype=dtype)
    replacement.bias = nn.Parameter(layer.bias.to(dtype), requires_grad=False)
    return replacement.eval()


def output_and_gradient(layer, x):
    x = x.clone().requires_grad_()
    output = layer(x)
    output.square().sum().backward()
    return output.detach(), x.grad


def relative_error(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


def test_weights_on_the_host_give_the_same_bits():
    for found, expected in zip(
        output_and_gradient(stored(HostLinear), some_input()), output_and_gradient(plain(), some_input()), strict=True
    ):
        assert torch.equal(found, expected)


def test_weights_on_the_host_stay_there():
    layer = stored(HostLinear).to("meta")
    assert layer.bias.device.type == "meta"
    assert layer.host_weight.device == CPU
    assert torch.equal(layer.host_weight, plain().weight)


@pytest.mark.parametrize(("kind", "error"), [(Int8Linear, 0.01), (Nf4Linear, 0.12)])
def test_quantized_weights_compute_nearly_the_same(kind, error):
    found, expected = output_and_gradient(stored(kind), some_input()), output_and_gradient(plain(), some_input())
    for one, other in zip(found, expected, strict=True):
        assert 0 < relative_error(one, other) < error


@pytest.mark.parametrize("kind", [Int8Linear, Nf4Linear])
def test_only_weights_are_rounded_and_the_gradient_is_exact(kind):
    """The outputs for unit vectors are the layer's matrix; all outputs and gradients are linear in it, exactly."""
    layer, x = stored(kind), some_input()
    matrix = layer(torch.eye(INPUTS)) - layer.bias
    output, gradient = output_and_gradient(layer, x)
    torch.testing.assert_close(output, x @ matrix + layer.bias, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradient, 2 * output @ matrix.T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [HostLinear, Int8Linear, Nf4Linear])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outputs_have_the_precision_of_autocast_whatever_the_input_has(kind, dtype):
    layer = stored(kind, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(some_input(dtype=dtype)).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", [HostLinear, Int8Linear, Nf4Linear])
def test_no_layer_keeps_its_input_for_the_backward_pass(kind):
    """If bitsandbytes keeps it where autograd does not see it, recomputing activations saves nothing."""
    x = some_input().requires_grad_() * 1
    output, alive = stored(kind)(x), weakref.ref(x)
    del x
    assert output.requires_grad
    assert alive() is None


def test_nf4_can_be_trained_after_inference():
    """On a CPU with AVX512-BF16, bitsandbytes repacks weights at the first forward pass in eval mode, for good."""
    layer = stored(Nf4Linear)
    packed = layer.weight.data.clone()
    with torch.no_grad():
        layer(some_input())
    assert torch.equal(layer.weight.data, packed)
    assert output_and_gradient(layer, some_input())[1] is not None


@pytest.mark.parametrize("kind", [Int8Linear, Nf4Linear])
def test_quantized_layers_compute_in_their_precision_without_autocast_too(kind):
    """Otherwise a weight in fp32 would be made for each norm's output, with twice the memory."""
    assert stored(kind, dtype=torch.bfloat16)(some_input()).dtype == torch.bfloat16
