"""The speed of a device itself in the shapes of a base: matrix products in bf16, fp8 and int8, attention forward and
backward, copies. Their times, summed over the blocks, are the practical floor of a training step.

Only the hardware is measured. Operands are random, and several sets of them rotate, so that none stays in a cache.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from statistics import fmean

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.block_shapes import BlockShapes, block_shapes
from bench.clocks import as_line, clock_readings, median_mhz
from bench.machine import machine
from bench.products import PRODUCTS, Product, is_possible
from bench.random_flux import BASES, DEFAULT_BASE
from bench.report import argument_parser, table, write_results
from bench.timing import seconds_each
from lora.base.device import device

TEXT = 512  # tokens
SIDES = {512: 1024, 768: 2304, 1024: 4096}  # pixels of a square image, and its tokens
BATCH = 4  # 6144 and 18432 rows are four images of 512 and of 1024 px
ROWS = (TEXT, 1024, 1536, 2304, 2816, 4096, 4608, 6144, 18432)
WIDTH = 3072  # of all heads together in FLUX.1 and klein 4B
BACKENDS = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION, "any": None}
SETS = 3  # sets of operands, which rotate
COPIED = 2**30  # bytes
ON_DEVICE = "copy on the device"


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured."""

    rows: tuple[int, ...]
    shapes: tuple[tuple[int, int], ...]
    heads: tuple[int, int]  # of attention: how many, and the width of each
    tokens: tuple[int, ...]
    batches: tuple[int, ...]
    copied: int
    warm_ups: int
    rounds: int


def reduced(base: str) -> Extent:
    """The rows of one image of 512 and of 1024 px, alone and with its text: 30 seconds instead of minutes."""
    rows = (TEXT, 1024, 1536, 4096, 4608)
    return Extent(rows, *_shapes_of(base), (1536, 4608), (1,), 2**28, warm_ups=5, rounds=20)


def full(base: str) -> Extent:
    """All rows of one of BASES."""
    return Extent(ROWS, *_shapes_of(base), (1536, 2816, 4608), (1, BATCH), COPIED, warm_ups=20, rounds=50)


def _shapes_of(base: str) -> tuple[tuple[tuple[int, int], ...], tuple[int, int]]:
    shapes = block_shapes(BASES[base])
    return shapes.products, (shapes.heads, shapes.head_width)


SMALL = Extent((32, 64), ((48, 96), (96, 48)), (24, 128), (64,), (1,), 2**16, 1, 2)


@dataclass(frozen=True, slots=True)
class Rate:
    """The time of one operation."""

    what: str
    way: str  # forward, or the gradient of the input
    size: tuple[int, ...]  # rows, in, out of a product; batch, tokens, width of attention; bytes of a copy
    seconds: float | None  # None if the device does not support it
    refusal: str = ""

    @property
    def work(self) -> float:
        """FLOP of products and attention (backward 2.5 times as many: five products instead of two); bytes of copies,
        which on the device are both read and written."""
        if self.what.startswith("attention"):
            batch, tokens, *width = self.size  # an older run was of FLUX.1 and does not say so
            return 4 * batch * tokens**2 * (width or [WIDTH])[0] * (1.0 if self.way == "forward" else 2.5)
        if self.what.startswith("copy"):
            return self.size[0] * (2.0 if self.what == ON_DEVICE else 1.0)
        rows, inputs, outputs = self.size
        return 2.0 * rows * inputs * outputs


def main() -> None:
    """Measure, write the results, print a table."""
    parser = argument_parser("rates", __doc__, small="a few tiny shapes, to check that it runs")
    parser.add_argument("--base", choices=BASES, default=DEFAULT_BASE, help="(default: %(default)s)")
    arguments = parser.parse_args()
    extent, where, shapes = SMALL, device(), block_shapes(BASES[arguments.base])
    if not arguments.small:
        extent = full(arguments.base)
    with clock_readings() as clock:
        rates = list(measure(extent, where))
    numbers = {
        **{"machine": machine("torch"), "extent": asdict(extent), "sm_mhz": median_mhz(clock)},
        **{"rates": [asdict(rate) for rate in rates], "floors": floors(rates, shapes)},
    }
    path = write_results(numbers, name=f"rates-{arguments.base}", output=arguments.output)
    print(f"wrote {path}\n{as_line([median_mhz(clock)])}\n\n{as_markdown(rates, shapes)}")


def measure(extent: Extent, where: torch.device) -> Iterator[Rate]:
    """Measure all operations, one after the other; each result follows at once."""
    yield from _products(extent, where)
    yield from _attentions(extent, where)
    yield from _copies(extent, where)


def _products(extent: Extent, where: torch.device) -> Iterator[Rate]:
    for product in PRODUCTS:
        if is_possible(product, where):
            for inner in extent.shapes:
                for rows in extent.rows:
                    yield from _both_ways(product, rows, inner, extent, where)


def _both_ways(
    product: Product, rows: int, shape: tuple[int, int], extent: Extent, where: torch.device
) -> Iterator[Rate]:
    """x W^T of x [rows, in] and W [out, in], and g W of g [rows, out], with W as training stores it."""
    inputs, outputs = shape
    size = (rows, inputs, outputs)
    forward = partial(product.operands, rows, inputs, outputs, where, is_forward=True)
    backward = partial(product.operands, rows, outputs, inputs, where, is_forward=False)
    yield _rate(product.name, "forward", size, forward, product.multiply, extent, where)
    yield _rate(product.name, "backward", size, backward, product.multiply_backward, extent, where)


def _rate(
    what: str,
    way: str,
    size: tuple[int, ...],
    operands: Callable[[], tuple[Tensor, ...]],
    task: Callable[..., object],
    extent: Extent,
    where: torch.device,
) -> Rate:
    try:
        sets = [operands() for _ in range(SETS)]
        rounds = seconds_each(
            lambda number: task(*sets[number % SETS]), where, warm_ups=extent.warm_ups, rounds=extent.rounds
        )
    except RuntimeError as error:  # a layout or a size that the libraries do not support
        return Rate(what, way, size, None, str(error).splitlines()[0])
    return Rate(what, way, size, fmean(rounds))


def _attentions(extent: Extent, where: torch.device) -> Iterator[Rate]:
    names = BACKENDS if where.type == "cuda" else ("any",)
    for name in names:
        for batch in extent.batches:
            for tokens in extent.tokens:
                operands = partial(_attention_operands, batch, tokens, extent.heads, where)
                attend = partial(_attend, BACKENDS[name])
                size = (batch, tokens, math.prod(extent.heads))
                yield _rate(f"attention, {name}", "forward", size, operands, attend, extent, where)
                ready = partial(_attention_result, attend, operands)
                yield _rate(f"attention, {name}", "backward", size, ready, _gradients, extent, where)


def _attention_operands(batch: int, tokens: int, heads: tuple[int, int], where: torch.device) -> tuple[Tensor, ...]:
    shape = (batch, heads[0], tokens, heads[1])
    return tuple(torch.randn(shape, device=where, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))


def _attend(backend: SDPBackend | None, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    if backend is None:
        return functional.scaled_dot_product_attention(q, k, v)
    with sdpa_kernel(backend):
        return functional.scaled_dot_product_attention(q, k, v)


def _attention_result(attend: Callable[..., Tensor], operands: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    qkv = operands()
    result = attend(*qkv)
    return result, torch.randn_like(result), *qkv


def _gradients(result: Tensor, grad: Tensor, *qkv: Tensor) -> None:
    torch.autograd.grad(result, qkv, grad, retain_graph=True)


def _copies(extent: Extent, where: torch.device) -> Iterator[Rate]:
    def buffers(source: torch.device, *, is_pinned: bool) -> tuple[Tensor, Tensor]:
        return (
            torch.empty(extent.copied, dtype=torch.uint8, device=where),
            torch.randint(256, (extent.copied,), dtype=torch.uint8, device=source, pin_memory=is_pinned),
        )

    def copy(target: Tensor, source: Tensor) -> None:
        target.copy_(source, non_blocking=True)

    size = (extent.copied,)
    yield _rate(ON_DEVICE, "forward", size, partial(buffers, where, is_pinned=False), copy, extent, where)
    if where.type == "cuda":
        host = torch.device("cpu")
        for what, is_pinned in (("copy from pinned memory", True), ("copy from pageable memory", False)):
            yield _rate(what, "forward", size, partial(buffers, host, is_pinned=is_pinned), copy, extent, where)


def floors(rates: list[Rate], shapes: BlockShapes) -> dict[str, dict[int, float]]:
    """The minimum seconds of a step of one image, by kind of product and side: all products of a base's blocks, forward
    and for the gradients of inputs, and attention with the fastest backend."""
    known = {(rate.what, rate.way, rate.size): rate.seconds for rate in rates if rate.seconds is not None}
    found: dict[str, dict[int, float]] = {}
    for product in PRODUCTS:
        for side, image in SIDES.items():
            seconds = _floor(known, product.name, image, shapes)
            if seconds is not None:
                found.setdefault(product.name, {})[side] = seconds
    return found


def _floor(
    known: dict[tuple[str, str, tuple[int, ...]], float], product: str, image: int, shapes: BlockShapes
) -> float | None:
    rows = {"text": TEXT, "image": image, "both": TEXT + image}
    width, seconds = shapes.heads * shapes.head_width, 0.0
    for way in ("forward", "backward"):
        keys = [(f"attention, {name}", way, (1, rows["both"], width)) for name in BACKENDS]
        attention = [known[key] for key in keys if key in known]
        if not attention:
            return None
        for blocks in shapes.blocks:
            sizes = [(rows[layer.tokens], layer.inputs, layer.outputs) for layer in blocks.layers]
            products = [known.get((product, way, size)) for size in sizes]
            if None in products:
                return None
            seconds += blocks.count * (sum(filter(None, products)) + min(attention))
    return seconds


def as_markdown(rates: list[Rate], shapes: BlockShapes) -> str:
    """Tables of the range of each kind, and of the floors of a base with these shapes."""
    kinds = dict.fromkeys((rate.what, rate.way) for rate in rates)
    rows = [_row(what, way, [rate for rate in rates if (rate.what, rate.way) == (what, way)]) for what, way in kinds]
    found = table(["operation", "direction", "min TFLOP/s (copies: TB/s)", "max", "unsupported"], rows)
    by_product = floors(rates, shapes)
    lines = [[name, *(f"{1000 * by_side[side]:.0f} ms" for side in SIDES)] for name, by_side in by_product.items()]
    floor = table(["lower bound of a step", *(f"{side} px" for side in SIDES)], lines)
    return f"{found}\n\n{floor}" if lines else found


def _row(what: str, way: str, rates: list[Rate]) -> list[str]:
    each = [rate.work / rate.seconds / 1e12 for rate in rates if rate.seconds is not None]
    refused = f"{len(rates) - len(each)} of {len(rates)}"
    return (
        [what, way, *(f"{value:.3g}" for value in (min(each), max(each))), refused]
        if each
        else [what, way, "", "", refused]
    )


if __name__ == "__main__":
    main()
