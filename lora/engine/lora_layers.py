"""Linear layers with a LoRA that compute in the model's own precision, with trained weights in fp32.

PEFT computes with the trained weights themselves: a bf16 model then needs autocast, which casts the same tensors again
for each layer, and norms in fp32. Here the model needs no autocast: each layer has copies of its LoRA in the model's
precision, which are updated together before each forward pass.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from diffusers import ModelMixin
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn


class FusedLoraLinear(nn.Module, LoraLayer):
    """A frozen layer with a LoRA, base(x) + scale B A x (Hu et al. 2021, arXiv 2106.09685), added in one product.

    The base may be any linear layer, however it stores its weights. To PEFT, this is one of its own layers, with the
    same parameters.
    """

    down: Tensor  # [rank, in], the copy of A; not a buffer, as it is not saved
    up: Tensor  # [out, rank], the copy of B
    copies: "LoraCopies"  # those of all layers of the transformer

    def __init__(self, layer: LoraLayer, *, dtype: torch.dtype) -> None:
        """Replace PEFT's layer, which must have exactly one LoRA, sharing its parameters; computes in `dtype`."""
        nn.Module.__init__(self)
        LoraLayer.__init__(self, layer.base_layer)
        for name in (*self.adapter_layer_names, *self.other_param_names, "_active_adapter"):
            setattr(self, name, getattr(layer, name))
        (self.adapter,) = layer.lora_A
        self.down, self.up = (master.detach().to(dtype, copy=True) for master in self.master_weights)

    @property
    def master_weights(self) -> tuple[nn.Parameter, nn.Parameter]:
        """The trained A [rank, in] and B [out, rank], in fp32."""
        down: Any = self.lora_A[self.adapter]
        up: Any = self.lora_B[self.adapter]
        return down.weight, up.weight

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out], in the precision of `x`, which must be that of the copies."""
        if self.disable_adapters:
            return self.base_layer(x)
        scale = self.scaling[self.adapter]
        return _AddLora.apply(self.base_layer(x), x, self.down, self.up, *self.master_weights, scale)


def fuse_lora(transformer: ModelMixin) -> None:
    """Replace PEFT's LoRA layers by fused ones in the transformer's precision. Autocast is then neither needed nor
    wanted."""
    dtype = transformer.dtype  # which takes a search of all modules
    for name, layer in list(transformer.named_modules()):
        if isinstance(layer, LoraLayer):
            transformer.set_submodule(name, FusedLoraLinear(layer, dtype=dtype))
    copies = LoraCopies([*filter(_is_fused, transformer.modules())])
    transformer.register_forward_pre_hook(copies.update)


def lora_layers(transformer: ModelMixin) -> list[LoraLayer]:
    """All layers with a LoRA, PEFT's or fused."""
    return [layer for layer in transformer.modules() if isinstance(layer, LoraLayer)]


@contextmanager
def without_lora(layers: Sequence[LoraLayer]) -> Iterator[None]:
    """Inside the `with` block, the layers, which are all of a transformer, compute as the base alone, bit for bit.
    Unlike PEFT's `disable_adapters`, this leaves the parameters and their `requires_grad` unchanged.

    Fused layers multiply by copies that are zero: if they computed something else, compiled blocks would need other
    graphs.
    """
    with ExitStack() as stack:
        for copies in {layer.copies for layer in layers if isinstance(layer, FusedLoraLinear)}:
            stack.enter_context(copies.zeroed())
        for layer in layers:
            if not isinstance(layer, FusedLoraLinear):
                stack.callback(setattr, layer, "_disable_adapters", False)
                layer._disable_adapters = True
        yield


def is_fused(transformer: ModelMixin) -> bool:
    """Whether a transformer has fused LoRA layers, which compute in its own precision."""
    return any(map(_is_fused, transformer.modules()))


class LoraCopies:
    """The copies of all LoRAs of a transformer, updated before each forward pass, so that code that changes the trained
    weights (optimizer, average, checkpoint) need not know of the copies."""

    def __init__(self, layers: Sequence[FusedLoraLinear]) -> None:
        self._master_weights: list[Tensor] = [master for layer in layers for master in layer.master_weights]
        self._copies = [copy for layer in layers for copy in (layer.down, layer.up)]
        self._are_zero = False
        for layer in layers:
            layer.copies = self

    @torch.no_grad()
    def update(self, *_: object) -> None:
        """Set the copies to the trained weights, or to zero inside of `zeroed`."""
        if self._are_zero:
            torch._foreach_zero_(self._copies)
        else:
            torch._foreach_copy_(self._copies, self._master_weights)

    @contextmanager
    def zeroed(self) -> Iterator[None]:
        """Inside the `with` block, the copies are zero; afterwards they are the trained weights again, also for blocks
        that are recomputed by then."""
        try:
            self._are_zero = True
            self.update()
            yield
        finally:
            self._are_zero = False
            self.update()


class _AddLora(torch.autograd.Function):
    """y + scale x A^T B^T for x [..., in] and y [..., out], in their precision. Gradients of A and B go to the fp32
    weights that they are copies of."""

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
        grad_low = (rows @ up).mul_(ctx.scale)
        grad_x = (grad_low @ down).view_as(x) if ctx.needs_input_grad[1] else None
        grad_down = (grad_low.T @ x.flatten(0, -2)).float()
        grad_up = (rows.T @ low).float().mul_(ctx.scale)
        return grad, grad_x, None, None, grad_down, grad_up, None


def _is_fused(module: nn.Module) -> bool:
    return isinstance(module, FusedLoraLinear)
