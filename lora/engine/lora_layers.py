"""Layers that wear a LoRA and compute in the model's own precision, while what is trained stays in fp32.

PEFT computes with the trained weights themselves: in a bf16 model that takes autocast, which casts the same tensors
again for each layer and norms in fp32. Here the model needs no autocast: each layer has copies of its LoRA in the
model's precision, cast together before each question.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import ModelMixin
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn


class FusedLoraLinear(nn.Module, LoraLayer):
    """A frozen layer with a LoRA, base(x) + scale B A x (Hu et al. 2021, arXiv 2106.09685), added in one product.

    The base may be any linear layer, held in whichever way. To PEFT it is a layer of its own, with the same parameters.
    """

    down: Tensor  # [rank, in], A as it is computed with; no buffer, as it is not saved
    up: Tensor  # [out, rank], B

    def __init__(self, layer: LoraLayer, *, dtype: torch.dtype) -> None:
        """In the place of PEFT's layer, which wears one LoRA, sharing its parameters; computes in `dtype`."""
        nn.Module.__init__(self)
        LoraLayer.__init__(self, layer.base_layer)
        for name in (*self.adapter_layer_names, *self.other_param_names, "_active_adapter"):
            setattr(self, name, getattr(layer, name))
        (self.adapter,) = layer.lora_A
        self.down, self.up = (master.detach().to(dtype, copy=True) for master in self.master_weights)

    @property
    def master_weights(self) -> tuple[nn.Parameter, nn.Parameter]:
        """A [rank, in] and B [out, rank] as they are trained, in fp32."""
        down: Any = self.lora_A[self.adapter]
        up: Any = self.lora_B[self.adapter]
        return down.weight, up.weight

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out], in the precision of `x`, which is the copies'."""
        if self.disable_adapters:
            return self.base_layer(x)
        scale = self.scaling[self.adapter]
        return _Added.apply(self.base_layer(x), x, self.down, self.up, *self.master_weights, scale)


def fuse_lora(transformer: ModelMixin) -> None:
    """Let the layers that wear PEFT's LoRA add it in one product, in the transformer's precision; autocast is then
    neither needed nor wanted."""
    for name, layer in list(transformer.named_modules()):
        if isinstance(layer, LoraLayer):
            transformer.set_submodule(name, FusedLoraLinear(layer, dtype=transformer.dtype))
    transformer.register_forward_pre_hook(_Casting([*filter(_is_fused, transformer.modules())]))


def lora_layers(transformer: ModelMixin) -> list[LoraLayer]:
    """The layers that have a LoRA, PEFT's or fused."""
    return [layer for layer in transformer.modules() if isinstance(layer, LoraLayer)]


@contextmanager
def without_lora(layers: Sequence[LoraLayer]) -> Iterator[None]:
    """These layers compute as the base alone, bit for bit; parameters and what they require stay as they are, unlike
    with PEFT's `disable_adapters`."""
    try:
        for layer in layers:
            layer._disable_adapters = True
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def is_fused(transformer: ModelMixin) -> bool:
    """Whether it wears a LoRA that computes in the transformer's own precision."""
    return any(map(_is_fused, transformer.modules()))


class _Casting:
    """Casts all LoRAs of a transformer whenever it is asked, so that it never computes with what they were before: who
    changes them (optimizer, average, checkpoint) need not know of the copies."""

    def __init__(self, layers: list[FusedLoraLinear]) -> None:
        self._masters: list[Tensor] = [master for layer in layers for master in layer.master_weights]
        self._copies = [copy for layer in layers for copy in (layer.down, layer.up)]

    @torch.no_grad()
    def __call__(self, *_: object) -> None:
        torch._foreach_copy_(self._copies, self._masters)


class _Added(torch.autograd.Function):
    """y + scale x A^T B^T for x [..., in] and y [..., out], in their precision; gradients of A and B go to those in
    fp32 that they are copies of."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        y: Tensor,
        x: Tensor,
        down: Tensor,
        up: Tensor,
        _master_down: nn.Parameter,
        _master_up: nn.Parameter,
        scale: float,
    ) -> Tensor:
        low = x.flatten(0, -2) @ down.T
        ctx.save_for_backward(x, low, down, up)
        ctx.scale = scale
        return torch.addmm(y.flatten(0, -2), low, up.T, alpha=scale).view_as(y)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        x, low, down, up = ctx.saved_tensors
        rows = grad.flatten(0, -2)
        of_low = (rows @ up).mul_(ctx.scale)
        of_x = (of_low @ down).view_as(x) if ctx.needs_input_grad[1] else None
        of_down = (of_low.T @ x.flatten(0, -2)).float()
        of_up = (rows.T @ low).float().mul_(ctx.scale)
        return grad, of_x, None, None, of_down, of_up, None


def _is_fused(module: nn.Module) -> bool:
    return isinstance(module, FusedLoraLinear)
