"""Does a LoRA fit the model? Asked before the pipeline sees it: diffusers drops what it does not know in silence."""

from collections.abc import Mapping

from torch import Tensor

from lora.flux.lora_layout import DOWN, MATRIX, PREFIX, UP, DiffusersLora, Shape, in_diffusers_layout, refuse_halves


def fit_lora(tensors: Mapping[str, Tensor], shapes: Mapping[str, Shape]) -> DiffusersLora:
    """Bring a LoRA into the layout of diffusers; raises ValueError unless every tensor belongs to a layer and fits."""
    fitted = in_diffusers_layout(tensors)
    for name, tensor in fitted.tensors.items():
        module = name.removeprefix(PREFIX).removesuffix(DOWN).removesuffix(UP)
        shape = shapes.get(module)
        if shape is None or not name.startswith(PREFIX) or not name.endswith((DOWN, UP)):
            raise ValueError(f"the LoRA was made for another model: this one has no place for {name}")
        _refuse_shape(name, tensor, shape)
    refuse_halves(fitted.tensors)
    return fitted


def _refuse_shape(name: str, tensor: Tensor, shape: Shape) -> None:
    side, expected = (-1, shape.inputs) if name.endswith(DOWN) else (0, shape.outputs)
    if tensor.ndim != MATRIX or tensor.shape[side] != expected:
        size = "x".join(map(str, tensor.shape))
        raise ValueError(f"the LoRA was made for another model: {name} is {size}, this model's layer has {expected}")
