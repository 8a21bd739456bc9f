"""Products compute what they claim, and their times add up to the floor of a step."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from bench.block_shapes import block_shapes
from bench.products import PRODUCTS, is_possible
from bench.random_flux import DEV, KLEIN_4B, KLEIN_9B
from bench.rates import ROWS, SIDES, Rate, floors
from lora.engine.int8 import W8A8Linear

CPU = torch.device("cpu")
HERE = [product for product in PRODUCTS if is_possible(product, CPU)]


def test_a_cpu_multiplies_in_bf16_and_int8():
    assert [product.name for product in HERE] == ["bf16", "int8"]


@pytest.mark.parametrize("product", HERE, ids=lambda product: product.name)
@pytest.mark.parametrize("is_forward", [True, False])
def test_a_product_multiplies_its_operands(product, is_forward):
    a, b, *scales = product.operands(32, 48, 96, CPU, is_forward=is_forward)
    exact = a.double() @ b.double()
    assert a.shape == (32, 48)
    assert b.shape == (48, 96)
    assert b.is_contiguous() is not is_forward  # forward, W lies in memory as it is stored: [out, in]
    multiply = product.multiply if is_forward else product.multiply_backward
    torch.testing.assert_close(multiply(a, b, *scales).double(), exact, rtol=1e-2, atol=1e-2 * exact.std())


class Int8Operations(TorchDispatchMode):
    """Records copies and products of int8 matrices [48, 96] and [96, 48], and how these lie in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        matrix = args[-1] if func == torch.ops.aten._int_mm.default else args[0]
        if func in (torch.ops.aten._int_mm.default, torch.ops.aten.clone.default) and matrix.dtype == torch.int8:
            self.found.append((str(func), tuple(matrix.shape), matrix.stride()))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("is_forward", [True, False])
def test_the_int8_product_transposes_and_multiplies_the_weight_as_training_does(is_forward):
    layer = W8A8Linear(nn.Linear(48, 96), dtype=torch.float32)
    layer.store_weight(torch.randn(96, 48), device=CPU, dtype=torch.float32)
    x = torch.randn(32, 48, requires_grad=True)
    with Int8Operations() as forward:
        y = layer(x)
    with Int8Operations() as backward:
        y.sum().backward()
    (int8,) = (product for product in HERE if product.name == "int8")
    sizes = (32, 48, 96) if is_forward else (32, 96, 48)
    operands = int8.operands(*sizes, CPU, is_forward=is_forward)
    with Int8Operations() as ours:
        (int8.multiply if is_forward else int8.multiply_backward)(*operands)
    assert ours.found == (forward if is_forward else backward).found
    assert len(ours.found) == (1 if is_forward else 2)


of_each_base = pytest.mark.parametrize("sizes", [DEV, KLEIN_4B, KLEIN_9B], ids=["dev", "klein-4B", "klein-9B"])


@of_each_base
def test_the_floor_is_every_product_and_attention_of_the_blocks_both_ways(sizes):
    shapes = block_shapes(sizes)
    width = shapes.heads * shapes.head_width
    products = [
        Rate("bf16", way, (rows, *shape), 1.0 if shape == (width, 3 * width) else 0.0)
        for way in ("forward", "backward")
        for rows in ROWS
        for shape in shapes.products
    ]
    attention = [
        Rate(f"attention, {name}", way, (1, 512 + image, width), seconds)
        for way in ("forward", "backward")
        for image in SIDES.values()
        for name, seconds in (("flash", 100.0), ("cudnn", 0.0))
    ]
    of_qkv = 2 * 2 * sizes.transformer["num_layers"]  # both ways, both streams of each double block
    assert floors([*products, *attention], shapes) == {"bf16": dict.fromkeys(SIDES, of_qkv)}
    assert floors(products, shapes) == {}  # no floor is known without attention


# FLUX.1: performance.md 1.1. A block of klein has an MLP of three widths with a gate, so that both streams of a double
# block have 26 squares of the width, and a single block 13.
@pytest.mark.parametrize(
    ("sizes", "weights"),
    [
        (DEV, 8_606_711_808),
        (KLEIN_4B, (5 * 26 + 20 * 13) * 3072**2),
        (KLEIN_9B, (8 * 26 + 24 * 13) * 4096**2),
    ],
    ids=["dev", "klein-4B", "klein-9B"],
)
def test_the_lower_bound_counts_every_linear_layer(sizes, weights):
    blocks = block_shapes(sizes).blocks
    found = (each.count * sum(layer.inputs * layer.outputs for layer in each.layers) for each in blocks)
    assert sum(found) == weights


def test_work_is_counted_by_kind():
    assert Rate("bf16", "forward", (2, 3, 5), 1.0).work == 60
    assert Rate("attention, any", "backward", (1, 4), 1.0).work == 2.5 * 4 * 24 * 16 * 128, "of an older run"
    assert Rate("attention, any", "backward", (1, 4, 4096), 1.0).work == 2.5 * 4 * 16 * 4096
    assert Rate("copy on the device", "forward", (8,), 1.0).work == 16
    assert Rate("copy from pinned memory", "forward", (8,), 1.0).work == 8
