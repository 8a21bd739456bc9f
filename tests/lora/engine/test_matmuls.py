"""Layers with 8-bit weights are multiplied by what is fastest on the device."""

import pytest
import torch

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


@pytest.fixture(autouse=True)
def one_round(monkeypatch):
    """A CPU takes a second for a matmul in bf16 at the size of FLUX.1."""
    monkeypatch.setattr(matmuls_module, "ROUNDS", 1)


@pytest.mark.parametrize("matmul", LAYERS)
def test_a_matmul_is_timed_in_both_directions(matmul):
    timed = time_matmul(matmul, CPU, rows=32)
    assert timed.matmul == matmul
    assert timed.milliseconds > 0.1  # 2.4 GFLOP in each direction


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
