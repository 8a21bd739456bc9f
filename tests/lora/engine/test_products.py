"""Layers with 8-bit weights are multiplied by what is fastest on the device."""

import pytest
import torch

from lora.engine.precision import TimedProduct
from lora.engine.products import (
    FIRST_CAPABILITY,
    LAYERS,
    fastest_products,
    supported_products,
    time_product,
    time_products,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize("product", LAYERS)
def test_a_product_is_timed_in_both_directions(product):
    timed = time_product(product, CPU, rows=32)
    assert timed.product == product
    assert timed.milliseconds > 0.1  # 2.4 GFLOP in each direction


def test_the_fastest_comes_first_and_a_product_that_fails_is_left_out():
    timed = time_products(LAYERS, CPU, rows=32)
    assert {each.product for each in timed} == set(LAYERS)
    assert timed[0].milliseconds <= timed[1].milliseconds
    assert time_products(LAYERS, CPU, rows=-1) == (TimedProduct("bf16", None),)


def test_on_a_cpu_weights_are_dequantized_and_nothing_is_timed():
    assert fastest_products(CPU, rows=1536) == (TimedProduct("bf16", None),)


@pytest.mark.parametrize(
    ("capability", "supported"),
    [
        ((7, 5), {"bf16"}),
        ((8, 0), {"int8", "bf16"}),
        ((9, 0), {"int8", "bf16"}),
    ],
)
def test_only_products_that_the_gpu_supports_are_timed(capability, supported):
    assert set(supported_products(capability)) == supported
    assert FIRST_CAPABILITY.keys() == LAYERS.keys()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_on_a_gpu_the_fastest_comes_first():
    times = [each.milliseconds for each in fastest_products(torch.device("cuda"), rows=1536)]
    assert times == sorted(times)
