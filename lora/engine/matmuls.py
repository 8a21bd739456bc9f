"""Choose how layers with int8 weights are multiplied in training: by what is fastest on the GPU at hand."""

from collections.abc import Iterable
from contextlib import suppress

import torch
from torch import nn
from torch.utils.benchmark import Timer

from lora.engine.int8 import Int8Linear, W8A8Linear
from lora.engine.precision import UNTIMED, MatmulPrecision, TimedMatmul

LAYERS: dict[MatmulPrecision, type[Int8Linear]] = {"int8": W8A8Linear, "bf16": Int8Linear}
# The first GPUs that support each: from Ampere on, torch's own tests of `_int_mm` (test/test_linalg.py) require it.
FIRST_CAPABILITY: dict[MatmulPrecision, tuple[int, int]] = {"int8": (8, 0), "bf16": (0, 0)}
INPUTS, OUTPUTS = 3072, 12288  # of the layer that is timed: the one before GELU, whose like are half of FLUX.1's work
ROUNDS = 10
BF16 = torch.bfloat16


def fastest_matmuls(device: torch.device, *, rows: int) -> tuple[TimedMatmul, ...]:
    """The ways to multiply int8 weights that a device supports, from the fastest to the slowest for `rows` tokens.

    On a CPU, only weights are rounded, and nothing is timed: tests and trainings there gain nothing from rounding more.
    """
    if device.type != "cuda":
        return UNTIMED
    timed = time_matmuls(supported_matmuls(torch.cuda.get_device_capability(device)), device, rows=rows)
    torch.cuda.empty_cache()
    return timed


def supported_matmuls(capability: tuple[int, int]) -> list[MatmulPrecision]:
    """What a GPU of this compute capability supports."""
    return [matmul for matmul, first in FIRST_CAPABILITY.items() if capability >= first]


def time_matmuls(matmuls: Iterable[MatmulPrecision], device: torch.device, *, rows: int) -> tuple[TimedMatmul, ...]:
    """Time these ways to multiply; leaves out those that fail. Without any, as where memory is too short even for one
    layer, none is timed."""
    timed = []
    for matmul in matmuls:
        with suppress(RuntimeError):
            timed.append(time_matmul(matmul, device, rows=rows))
    return tuple(sorted(timed, key=lambda each: each.milliseconds or 0.0)) or UNTIMED


def time_matmul(matmul: MatmulPrecision, device: torch.device, *, rows: int) -> TimedMatmul:
    """Time a layer of random weights on random input [rows, in], forward and backward, uncompiled."""
    layer = LAYERS[matmul](nn.Linear(INPUTS, OUTPUTS, device=device, dtype=BF16), dtype=BF16).requires_grad_(False)
    layer.store_weight(torch.randn(OUTPUTS, INPUTS, device=device), device=device, dtype=BF16)
    x = torch.randn(rows, INPUTS, device=device, dtype=BF16, requires_grad=True)
    grad = torch.randn(rows, OUTPUTS, device=device, dtype=BF16)
    timer = Timer("differentiate(layer(x), x, grad)", globals=locals() | {"differentiate": torch.autograd.grad})
    return TimedMatmul(matmul, 1000 * timer.timeit(ROUNDS).mean)
