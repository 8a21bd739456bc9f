"""Matrix products in the precisions that GPUs support, each with operands in the layout that its kernel expects."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Product:
    """A kind of matrix product."""

    name: str
    least_capability: tuple[int, int]  # of a GPU
    on_cpu: bool
    cast: Callable[[Tensor], Tensor]  # of random numbers
    multiply: Callable[..., Tensor]  # of a [rows, inner], b [inner, columns] and scales, if it has any
    scales: Callable[[int, int, torch.device], tuple[Tensor, ...]]  # by the numbers of rows and columns
    # accepts b for g W as W is stored; else W is transposed for each product, as in training (lora/engine/int8.py): a
    # transposed copy of all weights would take as much memory again
    takes_plain_rows: bool

    def operands(
        self, rows: int, inner: int, columns: int, where: torch.device, *, is_forward: bool
    ) -> tuple[Tensor, ...]:
        """Random operands: forward x [rows, inner] and W^T of W [columns, inner]; backward g [rows, inner] and
        W [inner, columns], each W as it is stored: [out, in]."""
        a = self.cast(torch.randn(rows, inner, device=where))
        if is_forward:
            b = self.cast(torch.randn(columns, inner, device=where)).T
        else:
            b = self.cast(torch.randn(inner, columns, device=where))
        return a, b, *self.scales(rows, columns, where)

    def multiply_backward(self, a: Tensor, b: Tensor, *scales: Tensor) -> Tensor:
        """The product of the backward operands, including the transposition of W where the kernel needs it."""
        return self.multiply(a, b if self.takes_plain_rows else b.T.contiguous().T, *scales)


def is_possible(product: Product, where: torch.device) -> bool:
    """Whether a device supports a product."""
    if where.type != "cuda":
        return product.on_cpu
    return torch.cuda.get_device_capability(where) >= product.least_capability


def _no_scales(_rows: int, _columns: int, _where: torch.device) -> tuple[Tensor, ...]:
    return ()


def _one_scale(_rows: int, _columns: int, where: torch.device) -> tuple[Tensor, ...]:
    return torch.ones((), device=where), torch.ones((), device=where)


def _scale_each(rows: int, columns: int, where: torch.device) -> tuple[Tensor, ...]:
    return torch.ones(rows, 1, device=where), torch.ones(1, columns, device=where)


def _scaled(*, fast: bool) -> Callable[..., Tensor]:
    """With `fast`, sums are partly accumulated in fewer bits than fp32: cuBLAS calls it fast accumulation."""

    def multiply(a: Tensor, b: Tensor, one: Tensor, other: Tensor) -> Tensor:
        options: Any = {"scale_a": one, "scale_b": other, "out_dtype": torch.bfloat16, "use_fast_accum": fast}
        return torch._scaled_mm(a, b, **options)

    return multiply


def _bf16(values: Tensor) -> Tensor:
    return values.to(torch.bfloat16)


def _fp8(values: Tensor) -> Tensor:
    return values.to(torch.float8_e4m3fn)


def _int8(values: Tensor) -> Tensor:
    return (values * 32).round().clamp(-127, 127).to(torch.int8)  # nearly all are within four standard deviations


PRODUCTS = (
    Product("bf16", (8, 0), True, _bf16, torch.mm, _no_scales, True),
    Product("fp8, a scale a tensor", (8, 9), False, _fp8, _scaled(fast=False), _one_scale, False),
    Product("fp8, a scale a tensor, fast sums", (8, 9), False, _fp8, _scaled(fast=True), _one_scale, False),
    Product("fp8, a scale a row", (8, 9), False, _fp8, _scaled(fast=False), _scale_each, False),
    Product("fp8, a scale a row, fast sums", (8, 9), False, _fp8, _scaled(fast=True), _scale_each, False),
    Product("int8", (8, 0), True, _int8, torch._int_mm, _no_scales, False),
)
