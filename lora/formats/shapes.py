"""The shapes of a model's linear layers, the only layers that a LoRA of FLUX can change."""

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True, slots=True)
class Shape:
    """The shape of a linear layer."""

    inputs: int
    outputs: int


def linear_shapes(transformer: nn.Module) -> dict[str, Shape]:
    """The shapes of all linear layers of a transformer without LoRA layers, by name."""
    linears = ((name, module) for name, module in transformer.named_modules() if isinstance(module, nn.Linear))
    return {name: Shape(module.in_features, module.out_features) for name, module in linears}
