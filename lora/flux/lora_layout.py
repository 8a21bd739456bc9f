"""A LoRA from anywhere in the layout of diffusers, and the layers it could be on. Knows no file, and wears nothing."""

from collections.abc import Mapping
from dataclasses import dataclass

from diffusers import FluxPipeline
from torch import Tensor, nn

PREFIX = "transformer."
DOWN, UP = ".lora_A.weight", ".lora_B.weight"
MATRIX = 2  # dimensions
# what the converters of diffusers raise at names and shapes that they do not know
CONFUSED = (ValueError, LookupError, RuntimeError, AssertionError, ArithmeticError, AttributeError, TypeError)
LONGEST_REASON = 200


@dataclass(frozen=True, slots=True)
class Shape:
    """A linear layer's."""

    inputs: int
    outputs: int


@dataclass(frozen=True, slots=True)
class DiffusersLora:
    """A LoRA by the names of diffusers."""

    tensors: dict[str, Tensor]
    alphas: dict[str, float] | None  # by layer, where the file held them apart


def linear_shapes(transformer: nn.Module) -> dict[str, Shape]:
    """Every linear layer of a transformer that wears nothing, by name."""
    linears = ((name, module) for name, module in transformer.named_modules() if isinstance(module, nn.Linear))
    return {name: Shape(module.in_features, module.out_features) for name, module in linears}


def in_diffusers_layout(tensors: Mapping[str, Tensor]) -> DiffusersLora:
    """What the pipeline itself would make of a file; raises ValueError with one sentence if it cannot."""
    try:
        converted, alphas = FluxPipeline.lora_state_dict(dict(tensors), return_alphas=True)
    except CONFUSED as error:
        reason = " ".join(str(error).split())[:LONGEST_REASON]
        raise ValueError(f"the LoRA's layout is not one that FLUX's loader knows ({reason})") from error
    return DiffusersLora({name: tensor for name, tensor in converted.items() if not name.endswith(".alpha")}, alphas)


def refuse_halves(tensors: Mapping[str, Tensor]) -> None:
    """Raises ValueError unless all are pairs of A and B with one rank."""
    for name in tensors:
        other = name.replace(DOWN, UP) if name.endswith(DOWN) else name.replace(UP, DOWN)
        if other not in tensors:
            raise ValueError(f"the LoRA is incomplete: it holds {name} without {other}")
        if name.endswith(DOWN) and tensors[name].shape[0] != tensors[other].shape[1]:
            raise ValueError(f"the LoRA is inconsistent: {name} and {other} have different ranks")
