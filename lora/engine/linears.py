"""Frozen linear layers that hold their weights small, or elsewhere; PEFT puts a LoRA on each. Knows no file."""

from typing import Any

import bitsandbytes as bnb
import torch
from torch import Tensor, nn
from torch.nn import functional

from lora.engine.int8 import Int8Linear

NF4_PRODUCT: Any = torch.ops.bitsandbytes.gemm_4bit.default  # of x, codes, [out, in] and so on


class HostLinear(nn.Linear):
    """A linear layer whose weights stay in host memory and visit the device of the input for the moment of their use.

    For layers whose input depends on no trained parameter: autograd would otherwise keep the weights on the device for
    the gradient of the input. The same numbers as `nn.Linear`, bit for bit.
    """

    host_weight: Tensor  # [out, in], no parameter: `to(device)` leaves it where it is
    answer: Tensor | None = None  # [..., out], while it is known without the weights (lora/flux/modulation.py)

    def __init__(self, layer: nn.Linear) -> None:
        """In the place of `layer`, whose weights may be on the meta device."""
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None, device="meta")

    def hold(self, weight: Tensor, *, device: torch.device, dtype: torch.dtype) -> None:
        """Keep a weight [out, in] in host memory, pinned if the device is a GPU; what remains on the device is an
        empty parameter, which tells PEFT where a LoRA has to be."""
        held = weight.detach().to("cpu", dtype)  # no parameter, even if it came as one
        self.host_weight = held.pin_memory() if device.type == "cuda" else held
        self.weight = _frozen(torch.empty(self.out_features, 0, device=device, dtype=dtype))

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch calls it so)
        """[..., in] to [..., out]."""
        return self.apply_weight(self.visiting(input.device), input) if self.answer is None else self.answer

    def visiting(self, device: torch.device) -> Tensor:
        """The weights [out, in] on a device, for as long as they are held there."""
        return self.host_weight.to(device, non_blocking=True)

    def apply_weight(self, weight: Tensor, x: Tensor) -> Tensor:
        """[..., in] to [..., out], with weights that are visiting."""
        return functional.linear(x, weight, self.bias)


class Nf4Linear(bnb.nn.Linear4bit):
    """A linear layer with weights in nf4, 64 a block, the blocks' scales in 8 bits (QLoRA, arXiv 2305.14314)."""

    def __init__(self, layer: nn.Linear, *, dtype: torch.dtype) -> None:
        """In the place of `layer`, whose weights may be on the meta device; computes in `dtype`."""
        bias = layer.bias is not None
        super().__init__(layer.in_features, layer.out_features, bias, dtype, quant_type="nf4", device="meta")
        self.support_avx512bf16_for_cpu = False  # a forward pass in eval mode would repack the weights for good

    def hold(self, weight: Tensor, *, device: torch.device, dtype: torch.dtype) -> None:
        """Keep a weight [out, in], rounded on the device."""
        held: Any = bnb.nn.Params4bit(weight.to(dtype), requires_grad=False, quant_type="nf4", module=self)
        self.weight = held.to(device)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out], in `compute_dtype`: bitsandbytes answers in the precision of the input, which
        is fp32 after each norm under autocast."""
        return super().forward(x.to(self.compute_dtype))


StoredLinear = HostLinear | Int8Linear | Nf4Linear


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
