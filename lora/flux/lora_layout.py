"""The layers that a LoRA could be on, and a LoRA by the names that diffusers has for them. Wears nothing."""

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Shape:
    """A linear layer's."""

    inputs: int
    outputs: int


@dataclass(frozen=True, slots=True)
class DiffusersLora:
    """A LoRA by the names of diffusers."""

    tensors: dict[str, Tensor]
    alphas: dict[str, float] | None  # by layer, where they are not folded in


def linear_shapes(transformer: nn.Module) -> dict[str, Shape]:
    """Every linear layer of a transformer that wears nothing, by name."""
    linears = ((name, module) for name, module in transformer.named_modules() if isinstance(module, nn.Linear))
    return {name: Shape(module.in_features, module.out_features) for name, module in linears}
