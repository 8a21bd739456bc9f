"""Frozen linear layers with weights in int8, for training and for drawing. Knows no model, no LoRA and no file."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

INT8_MAX = 127  # -128 is not used: both signs round alike
# What a product of int8 takes on a GPU (`_int_mm_out_cuda` in aten/src/ATen/native/cuda/Blas.cpp).
FEWEST_ROWS = 17
SIZE_MULTIPLE = 8
FIRST_CAPABILITY = (8, 0)  # Ampere: from there on, torch's own tests (test/test_linalg.py) ask it of every GPU


class Int8Linear(nn.Linear):
    """A linear layer with weights in int8, one scale a row. Only the weights are rounded, never what is computed.

    It keeps nothing for its backward pass but codes and scales, from which the weights are made anew.
    """

    weight: nn.Parameter  # [out, in]: codes in int8
    scales: Tensor  # [out], fp32: what one step of a row's codes is worth; no buffer: `to(dtype)` leaves it exact

    def __init__(self, layer: nn.Linear, *, dtype: torch.dtype) -> None:
        """In the place of `layer`, on its device and sharing its bias; answers in `dtype`. `hold` gives it weights, and
        not before."""
        super().__init__(layer.in_features, layer.out_features, bias=False, device="meta")
        self.dtype = dtype
        self._make_room(layer.weight.device)
        self.register_parameter("bias", layer.bias)

    @torch.no_grad()
    def hold(self, weight: Tensor, *, device: torch.device, dtype: torch.dtype) -> None:
        """Round a weight [out, in] on a device: if it is there already, into its own tensors, which a compiled graph
        knows."""
        if self.weight.device != device:
            self._make_room(device)
        codes, scales = quantize_rows(weight.to(device, dtype))
        self.weight.copy_(codes)
        self.scales.copy_(scales.squeeze(-1))

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        return _ProductOfWeights.apply(x.to(self.dtype), self.weight, self.scales, self.bias)

    def _make_room(self, device: torch.device) -> None:
        codes = torch.empty(self.out_features, self.in_features, dtype=torch.int8, device=device)
        self.weight = nn.Parameter(codes, requires_grad=False)
        self.scales = torch.empty(self.out_features, dtype=torch.float32, device=device)


class W8A8Linear(Int8Linear):
    """The same with its input rounded to int8 too, one scale a token, so that what is multiplied are 8 bits; and so is
    what is multiplied for the gradient of the input.

    Scales per row and per token are those of ZeroQuant (arXiv 2206.01861); both come out of the sum, which is exact.
    For the gradient, a row's scale is in the sum: it goes into the gradient of the answer before that is rounded, and
    the weights need not be rounded anew.
    """

    def __init__(self, layer: nn.Linear, *, dtype: torch.dtype) -> None:
        """As `Int8Linear`. Raises ValueError if the sizes of `layer` are not such as a GPU multiplies."""
        if not _fits(layer):
            raise ValueError(
                f"a layer of {layer.out_features} x {layer.in_features} weights cannot be multiplied in 8 bits:"
                f" expected multiples of {SIZE_MULTIPLE}"
            )
        super().__init__(layer, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        return _ProductOfCodes.apply(x, self.weight, self.scales, self.bias, self.dtype)


def supports_int8_matmul(layer: nn.Linear, device: torch.device) -> bool:
    """Whether a training on this device is to multiply by a layer in 8 bits: on a GPU from Ampere on, if its sizes are
    such as a GPU multiplies. A CPU could, but its tests and trainings have no use for the rounding."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= FIRST_CAPABILITY and _fits(layer)


def quantize_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Codes in int8 [n, size] of rows [n, size], and a scale in fp32 [n, 1] for each: rows are about codes * scales.

    No number is off by more than half a scale, which is 1/254 of the largest in its row.
    """
    largest = torch.linalg.vector_norm(rows, torch.inf, dim=-1, keepdim=True, dtype=torch.float32)
    scales = (largest / INT8_MAX).clamp_min(torch.finfo(torch.float32).tiny)
    return (rows / scales).round_().to(torch.int8), scales


def int8_matmul(rows: Tensor, weight: Tensor) -> Tensor:
    """int8 [n, in] times int8 [out, in], transposed: int32 [n, out], exact. Few rows are joined by rows of zeros.

    cuBLASLt multiplies int8 on every chip only if both lie in memory row by row, as given here (pytorch#169961).
    """
    count = rows.size(0)  # of `shape`, the compiler of torch 2.11 fails in an autograd.Function
    missing = torch.sym_max(0, FEWEST_ROWS - count)  # an `if` would be compiled once for few rows, and once for many
    return torch._int_mm(functional.pad(rows, (0, 0, 0, missing)), weight.T)[:count]


class _ProductOfWeights(torch.autograd.Function):
    """x W^T + b for x that needs a gradient and W that needs none, W being made anew in either direction."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(codes, scales)
        return functional.linear(x, _from_int8(codes, scales, x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # noqa: ANN401
        codes, scales = ctx.saved_tensors
        return grad @ _from_int8(codes, scales, grad.dtype), None, None, None


class _ProductOfCodes(torch.autograd.Function):
    """The same in 8 bits: x is rounded, and so is its gradient's other factor. Answers in `dtype`, and the gradient has
    the precision of x, under autocast too."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        x: Tensor,
        codes: Tensor,
        scales: Tensor,
        bias: Tensor | None,
        dtype: torch.dtype,
    ) -> Tensor:
        ctx.save_for_backward(codes, scales)
        ctx.dtype = x.dtype
        product = _rounded_product(x.flatten(0, -2), codes).mul_(scales)
        if bias is not None:
            product.add_(bias)
        return product.to(dtype).unflatten(0, x.shape[:-1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:  # noqa: ANN401
        codes, scales = ctx.saved_tensors
        product = _rounded_product(grad.flatten(0, -2) * scales, codes.T.contiguous())
        return product.to(ctx.dtype).unflatten(0, grad.shape[:-1]), None, None, None, None


def _rounded_product(rows: Tensor, codes: Tensor) -> Tensor:
    """Rows [n, in], rounded, times codes [out, in], transposed: fp32 [n, out]."""
    rounded, scales = quantize_rows(rows)
    return int8_matmul(rounded, codes) * scales


def _from_int8(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    return codes.to(dtype).mul_(scales.unsqueeze(1))  # in place, the scales in fp32


def _fits(layer: nn.Linear) -> bool:
    return not (layer.in_features % SIZE_MULTIPLE or layer.out_features % SIZE_MULTIPLE)
