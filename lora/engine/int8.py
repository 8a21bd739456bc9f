"""Frozen linear layers with int8 weights, for training and generation. Knows no model, no LoRA and no file."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

INT8_MAX = 127  # -128 is not used, so that both signs round alike
# What an int8 product requires on a GPU (`_int_mm_out_cuda` in aten/src/ATen/native/cuda/Blas.cpp).
MIN_ROWS = 17
SIZE_MULTIPLE = 8


class Int8Linear(nn.Linear):
    """A linear layer with int8 weights and one scale per row. Only the weights are rounded, not inputs or outputs.

    It keeps only codes and scales for its backward pass, and dequantizes the weights again there.
    """

    weight: nn.Parameter  # [out, in]: codes in int8
    scales: Tensor  # [out], fp32: the value of code 1 in each row; not a buffer, so that `to(dtype)` leaves it exact

    def __init__(self, layer: nn.Linear, *, dtype: torch.dtype) -> None:
        """Replace `layer`, on its device and sharing its bias; outputs have `dtype`. The weights are undefined until
        `store_weight` is called."""
        super().__init__(layer.in_features, layer.out_features, bias=False, device="meta")
        self.dtype = dtype
        self._allocate(layer.weight.device)
        self.register_parameter("bias", layer.bias)

    @torch.no_grad()
    def store_weight(self, weight: Tensor, *, device: torch.device, dtype: torch.dtype) -> None:
        """Round a weight [out, in] on a device. If the layer is there already, its tensors are overwritten in place, as
        compiled graphs refer to them."""
        if self.weight.device != device:
            self._allocate(device)
        codes, scales = quantize_rows(weight.to(device, dtype))
        self.weight.copy_(codes)
        self.scales.copy_(scales.squeeze(-1))

    @classmethod
    def fits(cls, layer: nn.Linear) -> bool:  # noqa: ARG003 (subclasses use it)
        """Whether weights of this size are supported."""
        return True

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        return _WeightOnlyProduct.apply(x.to(self.dtype), self.weight, self.scales, self.bias)

    def _allocate(self, device: torch.device) -> None:
        codes = torch.empty(self.out_features, self.in_features, dtype=torch.int8, device=device)
        self.weight = nn.Parameter(codes, requires_grad=False)
        self.scales = torch.empty(self.out_features, dtype=torch.float32, device=device)


class W8A8Linear(Int8Linear):
    """An `Int8Linear` that also rounds its input to int8, with one scale per token, and multiplies in 8 bits; likewise
    for the gradient of the input.

    Scales per row and per token are those of ZeroQuant (arXiv 2206.01861). In the forward pass both are factors of the
    sum, which is exact. For the gradient, a row's scale is inside the sum: the gradient of the output is multiplied by
    it before that is rounded, so the weights need not be rounded again.
    """

    def __init__(self, layer: nn.Linear, *, dtype: torch.dtype) -> None:
        """As `Int8Linear`. Raises ValueError if a GPU cannot multiply by weights of this size in 8 bits."""
        if not self.fits(layer):
            raise ValueError(
                f"a layer of shape {layer.out_features} x {layer.in_features} cannot be computed in int8:"
                f" expected multiples of {SIZE_MULTIPLE}"
            )
        super().__init__(layer, dtype=dtype)

    @classmethod
    def fits(cls, layer: nn.Linear) -> bool:
        """Whether a GPU can multiply by weights of this size in 8 bits."""
        return not (layer.in_features % SIZE_MULTIPLE or layer.out_features % SIZE_MULTIPLE)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        return _Int8Product.apply(x, self.weight, self.scales, self.bias, self.dtype)


def quantize_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize rows [n, size] to int8 codes [n, size] and one fp32 scale per row [n, 1]: rows are about codes * scales.

    Scales are symmetric, from the largest absolute value in each row, as in LLM.int8() (arXiv 2208.07339). No number is
    off by more than half a scale, which is 1/254 of that value. `rows` are floating-point numbers on any device, where
    codes and scales are too.
    """
    largest = torch.linalg.vector_norm(rows, torch.inf, dim=-1, keepdim=True, dtype=torch.float32)
    scales = (largest / INT8_MAX).clamp_min(torch.finfo(torch.float32).tiny)
    return (rows / scales).round_().to(torch.int8), scales


def int8_matmul(rows: Tensor, weight: Tensor) -> Tensor:
    """Multiply int8 [n, in] by int8 [out, in], transposed: int32 [n, out], exact. Fewer rows than a GPU requires are
    padded with zeros.

    cuBLASLt multiplies int8 on every chip only if both are contiguous in memory row by row, as here (pytorch#169961).
    """
    count = rows.size(0)  # with `shape`, the compiler of torch 2.11 fails in an autograd.Function
    missing = max(0, MIN_ROWS - count)  # an `if` would be compiled twice: for few rows and for many
    return torch._int_mm(functional.pad(rows, (0, 0, 0, missing)), weight.T)[:count]


class _WeightOnlyProduct(torch.autograd.Function):
    """x W^T + b for an x that needs a gradient and a W that does not; W is dequantized in either direction."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(codes, scales)
        return functional.linear(x, _dequantize(codes, scales, x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # noqa: ANN401
        codes, scales = ctx.saved_tensors
        # not `_dequantize`: the compiler would keep the weights of the forward pass instead of computing the same again
        transposed = codes.T.to(grad.dtype).mul_(scales)
        return grad @ transposed.T, None, None, None


class _Int8Product(torch.autograd.Function):
    """x W^T + b in 8 bits: x is rounded, and for its gradient the gradient of the output is. The output has `dtype`;
    the gradient has the precision of x, under autocast too."""

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
        product = _quantized_product(x.flatten(0, -2), codes).mul_(scales)
        if bias is not None:
            product.add_(bias)
        return product.to(dtype).unflatten(0, x.shape[:-1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:  # noqa: ANN401
        codes, scales = ctx.saved_tensors
        product = _quantized_product(grad.flatten(0, -2) * scales, codes.T.contiguous())
        return product.to(ctx.dtype).unflatten(0, grad.shape[:-1]), None, None, None, None


def _quantized_product(rows: Tensor, codes: Tensor) -> Tensor:
    """Multiply rows [n, in], rounded to int8, by codes [out, in], transposed: fp32 [n, out]."""
    codes_of_rows, scales = quantize_rows(rows)
    return int8_matmul(codes_of_rows, codes) * scales


def _dequantize(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    return codes.to(dtype).mul_(scales.unsqueeze(1))  # in place, the scales in fp32
