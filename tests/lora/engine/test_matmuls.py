"""Layers with 8-bit weights are multiplied by what is fastest on the device."""

import pytest
import torch
from diffusers import FluxTransformer2DModel

from lora.engine import matmuls as matmuls_module
from lora.engine.matmuls import (
    FIRST_CAPABILITY,
    LAYERS,
    fastest_matmuls,
    supported_matmuls,
    time_matmul,
    time_matmuls,
)
from lora.engine.precision import TimedMatmul

CPU = torch.device("cpu")


@pytest.fixture
def small_layer(monkeypatch):
    """One round with a layer of an eighth of the width: a CPU takes seconds to make and to multiply FLUX.1's."""
    for name, value in (("ROUNDS", 1), ("INPUTS", 384), ("OUTPUTS", 1536)):
        monkeypatch.setattr(matmuls_module, name, value)


def test_the_layer_that_is_timed_is_the_one_before_gelu_in_flux_1():
    with torch.device("meta"):
        flux = FluxTransformer2DModel(num_layers=0, num_single_layers=1)
    layer = flux.single_transformer_blocks[0].proj_mlp
    assert (layer.in_features, layer.out_features) == (matmuls_module.INPUTS, matmuls_module.OUTPUTS)


@pytest.mark.usefixtures("small_layer")
@pytest.mark.parametrize("matmul", LAYERS)
def test_a_matmul_is_timed_in_both_directions(matmul):
    timed = time_matmul(matmul, CPU, rows=32)
    assert timed.matmul == matmul
    assert timed.milliseconds > 0.002  # 38 MFLOP in each direction


@pytest.mark.usefixtures("small_layer")
def test_the_fastest_comes_first_and_a_matmul_that_fails_is_left_out():
    timed = time_matmuls(LAYERS, CPU, rows=32)
    assert {each.matmul for each in timed} == set(LAYERS)
    assert timed[0].milliseconds <= timed[1].milliseconds
    assert time_matmuls(LAYERS, CPU, rows=-1) == (TimedMatmul("bf16", None),)


def test_on_a_cpu_weights_are_dequantized_and_nothing_is_timed():
    assert fastest_matmuls(CPU, rows=1536) == (TimedMatmul("bf16", None),)


@pytest.mark.parametrize(
    ("capability", "supported"),
    [
        ((7, 5), {"bf16"}),
        ((8, 0), {"int8", "bf16"}),
        ((9, 0), {"int8", "bf16"}),
    ],
)
def test_only_matmuls_that_the_gpu_supports_are_timed(capability, supported):
    assert set(supported_matmuls(capability)) == supported
    assert FIRST_CAPABILITY.keys() == LAYERS.keys()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_on_a_gpu_the_fastest_comes_first():
    times = [each.milliseconds for each in fastest_matmuls(torch.device("cuda"), rows=1536)]
    assert times == sorted(times)
