"""The linear layers of a model, which are all that a LoRA can be on."""

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True, slots=True)
class Shape:
    """A linear layer's."""

    inputs: int
    outputs: int


def linear_shapes(transformer: nn.Module) -> dict[str, Shape]:
    """Every linear layer of a transformer that wears nothing, by name."""
    linears = ((name, module) for name, module in transformer.named_modules() if isinstance(module, nn.Linear))
    return {name: Shape(module.in_features, module.out_features) for name, module in linears}
