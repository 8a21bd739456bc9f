"""Does a LoRA fit the model? Asked before the pipeline sees it: diffusers drops what it does not know in silence."""

from collections.abc import Mapping
from dataclasses import dataclass

from diffusers import FluxPipeline
from torch import Tensor, nn

PREFIX = "transformer."
DOWN, UP = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True, slots=True)
class Shape:
    """A linear layer's."""

    inputs: int
    outputs: int


def module_shapes(transformer: nn.Module) -> dict[str, Shape]:
    """Every linear layer of a transformer that wears nothing, by name."""
    linears = ((name, module) for name, module in transformer.named_modules() if isinstance(module, nn.Linear))
    return {name: Shape(module.in_features, module.out_features) for name, module in linears}


def refuse_misfit(tensors: Mapping[str, Tensor], shapes: Mapping[str, Shape]) -> None:
    """Raise ValueError unless every tensor, in the layout of diffusers, belongs to a layer of the model and fits it."""
    converted = _in_diffusers_layout(tensors)
    for name, tensor in converted.items():
        module = name.removeprefix(PREFIX).removesuffix(DOWN).removesuffix(UP)
        shape = shapes.get(module)
        if shape is None or not name.startswith(PREFIX) or not name.endswith((DOWN, UP)):
            raise ValueError(f"the LoRA was made for another model: this one has no place for {name}")
        _refuse_shape(name, tensor, shape)
    _refuse_halves(set(converted), converted)


def _in_diffusers_layout(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the pipeline itself would make of the file; its converters raise many things at files they do not know."""
    try:
        converted = FluxPipeline.lora_state_dict(dict(tensors), return_alphas=True)[0]
    except (ValueError, KeyError, IndexError, RuntimeError, AssertionError) as error:
        raise ValueError(f"the LoRA's layout is not one that FLUX's loader knows ({error})") from error
    return {name: tensor for name, tensor in converted.items() if not name.endswith(".alpha")}


def _refuse_shape(name: str, tensor: Tensor, shape: Shape) -> None:
    found = tensor.shape[1] if name.endswith(DOWN) else tensor.shape[0]
    expected = shape.inputs if name.endswith(DOWN) else shape.outputs
    if tensor.ndim != 2 or found != expected:
        size = "x".join(map(str, tensor.shape))
        raise ValueError(f"the LoRA was made for another model: {name} is {size}, this model's layer has {expected}")


def _refuse_halves(names: set[str], tensors: Mapping[str, Tensor]) -> None:
    for name in names:
        other = name.replace(DOWN, UP) if name.endswith(DOWN) else name.replace(UP, DOWN)
        if other not in names:
            raise ValueError(f"the LoRA is incomplete: it holds {name} without {other}")
        if name.endswith(DOWN) and tensors[name].shape[0] != tensors[other].shape[1]:
            raise ValueError(f"the LoRA is inconsistent: {name} and {other} have different ranks")
