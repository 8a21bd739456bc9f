"""Frozen linear layers that store their weights quantized or in host memory; PEFT can add a LoRA to each. Knows no
file."""

from typing import Any

import bitsandbytes as bnb
import torch
from torch import Tensor, nn
from torch.nn import functional

from lora.engine.int8 import Int8Linear

NF4_MATMUL: Any = torch.ops.bitsandbytes.gemm_4bit.default  # of x, codes, [out, in] and so on


class HostLinear(nn.Linear):
    """A linear layer whose weights stay in host memory and are copied to the input's device for each use.

    For layers whose input depends on no trained parameter: otherwise autograd would keep the weights on the device for
    the gradient of the input. Computes the same as `nn.Linear`, bit for bit.
    """

    host_weight: Tensor  # [out, in], not a parameter, so that `to(device)` does not move it
    output: Tensor | None = None  # [..., out], if it is precomputed (lora/base/modulation.py)

    def __init__(self, layer: nn.Linear) -> None:
        """Replace `layer`, whose weights may be on the meta device."""
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None, device="meta")

    def store_weight(self, weight: Tensor, *, device: torch.device, dtype: torch.dtype) -> None:
        """Store a weight [out, in] in host memory, pinned if the device is a GPU. An empty parameter remains on the
        device, which shows PEFT where a LoRA belongs."""
        stored = weight.detach().to("cpu", dtype)  # a plain tensor, even if it was a parameter
        self.host_weight = stored.pin_memory() if device.type == "cuda" else stored
        self.weight = _frozen(torch.empty(self.out_features, 0, device=device, dtype=dtype))

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch calls it so)
        """[..., in] to [..., out]."""
        return self.apply_weight(self.weight_on(input.device), input) if self.output is None else self.output

    def weight_on(self, device: torch.device) -> Tensor:
        """Copy the weights [out, in] to a device; the copy is freed when the caller drops it."""
        return self.host_weight.to(device, non_blocking=True)

    def apply_weight(self, weight: Tensor, x: Tensor) -> Tensor:
        """[..., in] to [..., out], with weights from `weight_on`."""
        return functional.linear(x, weight, self.bias)


class Nf4Linear(bnb.nn.Linear4bit):
    """A linear layer with nf4 weights in blocks of 64, whose scales have 8 bits (QLoRA, arXiv 2305.14314)."""

    def __init__(self, layer: nn.Linear, *, dtype: torch.dtype) -> None:
        """Replace `layer`, whose weights may be on the meta device; computes in `dtype`."""
        bias = layer.bias is not None
        super().__init__(layer.in_features, layer.out_features, bias, dtype, quant_type="nf4", device="meta")
        self.support_avx512bf16_for_cpu = False  # a forward pass in eval mode would repack the weights for good

    def store_weight(self, weight: Tensor, *, device: torch.device, dtype: torch.dtype) -> None:
        """Store a weight [out, in], quantized on the device."""
        quantized: Any = bnb.nn.Params4bit(weight.to(dtype), requires_grad=False, quant_type="nf4", module=self)
        self.weight = quantized.to(device)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out], in `compute_dtype`. bitsandbytes returns the precision of the input, which is fp32
        after each norm under autocast."""
        return super().forward(x.to(self.compute_dtype))


StoredLinear = HostLinear | Int8Linear | Nf4Linear


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
