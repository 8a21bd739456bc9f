"""A linear layer that multiplies in 8 bits, for drawing only: no gradient passes it. Knows no model and no LoRA."""

import torch
from torch import Tensor, nn
from torch.nn import functional

INT8_MAX = 127  # -128 is not used: both signs round alike
# What a product of int8 takes on a GPU (`_int_mm_out_cuda` in aten/src/ATen/native/cuda/Blas.cpp).
FEWEST_ROWS = 17
SIZE_MULTIPLE = 8


class W8A8Linear(nn.Module):
    """A linear layer with weights in int8, one scale a row, whose input is rounded to int8 too, one scale a token.

    Scales per row and per token are those of ZeroQuant (arXiv 2206.01861); both come out of the sum, which is exact.
    """

    codes: Tensor  # [out, in], int8
    scales: Tensor  # [out], fp32: what one step of a row's codes is worth; no buffer: `to(dtype)` leaves it exact
    bias: nn.Parameter | None

    def __init__(self, layer: nn.Linear) -> None:
        """In the place of `layer`, on its device and sharing its bias; `hold` gives it weights, and not before.

        Raises ValueError if the sizes of `layer` are not such as a GPU multiplies.
        """
        super().__init__()
        shape = layer.out_features, layer.in_features
        if any(size % SIZE_MULTIPLE for size in shape):
            raise ValueError(
                f"a layer of {shape[0]} x {shape[1]} weights cannot be multiplied in 8 bits:"
                f" expected multiples of {SIZE_MULTIPLE}"
            )
        device = layer.weight.device
        self.register_buffer("codes", torch.empty(shape, dtype=torch.int8, device=device))
        self.scales = torch.empty(shape[0], dtype=torch.float32, device=device)
        self.register_parameter("bias", layer.bias)

    @torch.no_grad()
    def hold(self, weight: Tensor) -> None:
        """Round a weight [out, in] into the tensors that are there, which a compiled graph knows."""
        codes, scales = round_rows(weight)
        self.codes.copy_(codes)
        self.scales.copy_(scales.squeeze(-1))

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out], in the precision of `x`."""
        codes, scales = round_rows(x.flatten(0, -2))
        product = int8_product(codes, self.codes) * scales * self.scales
        if self.bias is not None:
            product = product + self.bias
        return product.to(x.dtype).unflatten(0, x.shape[:-1])


def round_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Codes in int8 [n, size] of rows [n, size], and a scale in fp32 [n, 1] for each: rows are about codes * scales."""
    exact = rows.float()
    scales = (exact.abs().amax(-1, keepdim=True) / INT8_MAX).clamp_min(torch.finfo(torch.float32).tiny)
    return (exact / scales).round().to(torch.int8), scales


def int8_product(rows: Tensor, weight: Tensor) -> Tensor:
    """int8 [n, in] times int8 [out, in], transposed: int32 [n, out], exact. Few rows are joined by rows of zeros."""
    count = rows.shape[0]
    missing = torch.sym_max(0, FEWEST_ROWS - count)  # an `if` would be compiled once for few rows, and once for many
    return torch._int_mm(functional.pad(rows, (0, 0, 0, missing)), weight.T)[:count]
