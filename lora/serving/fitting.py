"""Does a LoRA fit the model? Asked before the pipeline sees it: diffusers drops what it does not know in silence."""

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


def module_shapes(transformer: nn.Module) -> dict[str, Shape]:
    """Every linear layer of a transformer that wears nothing, by name."""
    linears = ((name, module) for name, module in transformer.named_modules() if isinstance(module, nn.Linear))
    return {name: Shape(module.in_features, module.out_features) for name, module in linears}


@dataclass(frozen=True, slots=True)
class FittedLora:
    """A LoRA in the layout of diffusers, all of which has its place in the model."""

    tensors: dict[str, Tensor]
    alphas: dict[str, float] | None  # by layer, where the file held them apart


def fit_lora(tensors: Mapping[str, Tensor], shapes: Mapping[str, Shape]) -> FittedLora:
    """Bring a LoRA into the layout of diffusers; raises ValueError unless every tensor belongs to a layer and fits."""
    fitted = _in_diffusers_layout(tensors)
    for name, tensor in fitted.tensors.items():
        module = name.removeprefix(PREFIX).removesuffix(DOWN).removesuffix(UP)
        shape = shapes.get(module)
        if shape is None or not name.startswith(PREFIX) or not name.endswith((DOWN, UP)):
            raise ValueError(f"the LoRA was made for another model: this one has no place for {name}")
        _refuse_shape(name, tensor, shape)
    _refuse_halves(fitted.tensors)
    return fitted


def _in_diffusers_layout(tensors: Mapping[str, Tensor]) -> FittedLora:
    """What the pipeline itself would make of the file; its converters raise many things at files they do not know."""
    try:
        converted, alphas = FluxPipeline.lora_state_dict(dict(tensors), return_alphas=True)
    except CONFUSED as error:
        reason = " ".join(str(error).split())[:LONGEST_REASON]
        raise ValueError(f"the LoRA's layout is not one that FLUX's loader knows ({reason})") from error
    return FittedLora({name: tensor for name, tensor in converted.items() if not name.endswith(".alpha")}, alphas)


def _refuse_shape(name: str, tensor: Tensor, shape: Shape) -> None:
    side, expected = (-1, shape.inputs) if name.endswith(DOWN) else (0, shape.outputs)
    if tensor.ndim != MATRIX or tensor.shape[side] != expected:
        size = "x".join(map(str, tensor.shape))
        raise ValueError(f"the LoRA was made for another model: {name} is {size}, this model's layer has {expected}")


def _refuse_halves(tensors: Mapping[str, Tensor]) -> None:
    for name in tensors:
        other = name.replace(DOWN, UP) if name.endswith(DOWN) else name.replace(UP, DOWN)
        if other not in tensors:
            raise ValueError(f"the LoRA is incomplete: it holds {name} without {other}")
        if name.endswith(DOWN) and tensors[name].shape[0] != tensors[other].shape[1]:
            raise ValueError(f"the LoRA is inconsistent: {name} and {other} have different ranks")
