"""Checks that a LoRA is compatible with the models of a pipeline, before any weight changes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from diffusers import DiffusionPipeline
from torch import Tensor, nn

from lora.families.registry import family_of, family_of_model
from lora.families.weightless import weightless_pipeline
from lora.formats.foreign_models import incompatible_model_hint
from lora.formats.layer_names.record import LayerNames
from lora.formats.reading import convert_lora
from lora.formats.shapes import Shape
from lora.formats.weight_deltas import FluxLora, WeightDelta

Layers = Mapping[str, nn.Linear]  # by model and layer name: transformer.single_transformer_blocks.0.proj_out
Vectors = Mapping[
    str, nn.Parameter
]  # by model and parameter name: transformer.single_transformer_blocks.0.proj_out.bias
CLIP_ROOT = "text_model."  # prefix in LoRA files and older versions of transformers; the newest version has none


@dataclass(frozen=True, slots=True)
class Changeable:
    """What a LoRA can change in the transformer and the text encoders of a pipeline."""

    layers: Layers  # all linear layers, for their weights
    vectors: Vectors  # all biases, and the scales of all norms
    names: LayerNames  # of the pipeline's family

    @classmethod
    def of(cls, pipeline: DiffusionPipeline) -> Self:
        """Those of a pipeline."""
        return cls(linear_layers(pipeline), _vectors(pipeline), family_of_model(pipeline).layer_names)


def linear_layers(pipeline: DiffusionPipeline) -> dict[str, nn.Linear]:
    """Return all linear layers of the transformer and the text encoders."""
    return {
        name_in_model(model, name): layer
        for model, module in _models(pipeline)
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear)
    }


def name_in_model(model: str, name: str) -> str:
    """The name of a layer or a parameter with that of its model, whatever the version of transformers."""
    return f"{model}.{name.removeprefix(CLIP_ROOT)}"


def _models(pipeline: DiffusionPipeline) -> tuple[tuple[str, nn.Module], ...]:
    """The models that a LoRA may change, by their names in LoRA files."""
    return tuple((model, getattr(pipeline, folder)) for model, folder in family_of_model(pipeline).lora_models.items())


def _vectors(pipeline: DiffusionPipeline) -> dict[str, nn.Parameter]:
    return {
        name_in_model(model, f"{name}.{key}"): parameter
        for model, module in _models(pipeline)
        for name, layer in module.named_modules()
        for key, parameter in layer.named_parameters(recurse=False)
        if parameter.ndim == 1 and (key == "bias" or not isinstance(layer, nn.Linear))  # a streamed weight is empty
    }


def deltas_by_layer(lora: FluxLora) -> Iterator[tuple[str, WeightDelta]]:
    """Yield the weight deltas of a LoRA with their layer names, as in `linear_layers`."""
    for model, deltas in (("transformer", lora.transformer), ("clip", lora.clip), ("t5", lora.t5)):
        for name, delta in deltas.items():
            yield name_in_model(model, name), delta


def vectors_by_name(lora: FluxLora) -> Iterator[tuple[str, Tensor]]:
    """Yield the deltas of biases and norms of a LoRA with their names, as in `Changeable`."""
    for name, delta in lora.vectors.items():
        yield name_in_model(name.model, f"{name.layer}.{name.parameter}"), delta


def refuse_incompatible(lora: FluxLora, changeable: Changeable) -> None:
    """Check that each delta has a layer or a vector of the same shape.

    Raises ValueError otherwise; its message is the end of a sentence.
    """
    for name, vector in vectors_by_name(lora):
        found = changeable.vectors.get(name)
        if found is None or found.shape != vector.shape:
            expected = "none" if found is None else f"one of {len(found)}"
            what = f"it has {len(vector)} numbers for {name}, this model has {expected}{_hint(lora, name, changeable)}"
            raise ValueError(f"is incompatible with this model: {what}")
    for name, delta in deltas_by_layer(lora):
        layer = changeable.layers.get(name)
        if layer is None or delta.shape != Shape(layer.in_features, layer.out_features):
            what = _incompatibility(name, delta.shape, layer, _hint(lora, name, changeable))
            raise ValueError(f"is incompatible with this model: {what}")


def refuse_unusable(tensors: Mapping[str, Tensor], base: Path) -> None:
    """Check that the tensors of a file are a LoRA for the base in a folder, without loading the base's weights.

    Raises ValueError otherwise; its message is the end of a sentence.
    """
    lora = convert_lora(tensors, family_of(base).layer_names)
    refuse_incompatible(lora, Changeable.of(weightless_pipeline(base)))


def _hint(lora: FluxLora, name: str, changeable: Changeable) -> str:
    """The model that a LoRA was made for, if the layer or the parameter `name` is of the transformer."""
    shapes = {layer: delta.shape for layer, delta in lora.transformer.items()}
    return incompatible_model_hint(shapes, changeable.names) if name.startswith("transformer.") else ""


def _incompatibility(name: str, shape: Shape, layer: nn.Linear | None, hint: str) -> str:
    found = f"{shape.outputs} x {shape.inputs} weights{hint}"
    if layer is None:
        return f"this model has no layer {name}, which has {found}"
    return f"{name} is for {found}, this model's are {layer.out_features} x {layer.in_features}"
