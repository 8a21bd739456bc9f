"""Convert the tensors of a LoRA file in any known layout to one record, or say why not. Opens no file."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lora.formats.bias_deltas import bias_deltas, norm_deltas
from lora.formats.foreign_models import foreign_model_hint
from lora.formats.fused_layers import split_fused
from lora.formats.layer_delta import weight_delta_of
from lora.formats.layer_names.mapping import find_layer, find_norm
from lora.formats.layer_names.record import LayerNames
from lora.formats.other_adapters import other_adapter_hint
from lora.formats.tensor_keys import FileLayer, group_by_layer
from lora.formats.weight_deltas import FluxLora, LayerMapping, Model, VectorName, WeightDelta


@dataclass(frozen=True, slots=True)
class MappedLayer:
    """A layer of a file, and the layers of the model, or the norm, that it applies to."""

    layer: FileLayer
    mapping: LayerMapping | VectorName


def convert_lora(tensors: Mapping[str, Tensor], names: LayerNames) -> FluxLora:
    """Convert the tensors of a LoRA file for a family to weight deltas; every tensor must be used, or change nothing.

    Known layouts are those of diffusers and PEFT with any prefix or none, ai-toolkit, sd-scripts, musubi-tuner,
    ComfyUI, Black Forest Labs, XLabs, OneTrainer and LyCORIS (LoHa, LoKr, GLoRA), mixed or not, with or without the
    magnitudes of a DoRA, and differences of weights, biases and norms.

    Raises ValueError with the end of a sentence that begins with the LoRA's name: a layer or tensor that the family
    does not have, one matrix of two, tensors that do not match each other, an unknown decomposition, an infinite delta.
    """
    deltas: dict[Model, dict[str, WeightDelta]] = {"transformer": {}, "clip": {}, "t5": {}}
    vectors: dict[VectorName, Tensor] = {}
    for mapped in _map_layers(tensors, names):
        if isinstance(mapped.mapping, LayerMapping):
            of_model = deltas[mapped.mapping.model]
            for layer, delta in _deltas(mapped.layer, mapped.mapping, tensors, names):
                first = of_model.setdefault(layer, delta)
                _refuse_different(first is delta or _are_equal(first, delta), layer)
        for name, vector in _vectors(mapped, names):
            _refuse_different(
                torch.equal(vectors.setdefault(name, vector), vector), f"the {name.parameter} of {name.layer}"
            )
    if not any(deltas.values()) and not vectors:
        raise ValueError(f"changes nothing: expected a LoRA on layers of {names.name}")
    return FluxLora(**deltas, vectors=vectors)


def _map_layers(tensors: Mapping[str, Tensor], names: LayerNames) -> Iterator[MappedLayer]:
    """The layers of the family in a file; raises ValueError if other layers change anything."""
    file = group_by_layer(tensors)
    mappings = {layer.name: _mapping(layer, names) for layer in file.layers}
    unmapped = (layer for layer in file.layers if not mappings[layer.name] and not layer.is_zero)
    unknown = [*file.unknown_keys, *(key for layer in unmapped for key in layer.keys)]
    if unknown:
        which = f" and {len(unknown) - 1} more, which do" if unknown[1:] else ", which does"
        hints = f"{foreign_model_hint(tensors, names)}{other_adapter_hint(unknown)}"
        raise ValueError(f"has {unknown[0]}{which} not match any layer of {names.name}{hints}")
    for layer in file.layers:
        if (mapping := mappings[layer.name]) and not (layer.is_zero and layer.has_only_differences):
            yield MappedLayer(layer, mapping)


def _mapping(layer: FileLayer, names: LayerNames) -> LayerMapping | VectorName | None:
    return find_layer(layer.name, names) or (find_norm(layer.name, names) if layer.has_only_differences else None)


def _deltas(
    layer: FileLayer, mapping: LayerMapping, tensors: Mapping[str, Tensor], names: LayerNames
) -> list[tuple[str, WeightDelta]]:
    delta = weight_delta_of(layer, mapping)
    if delta is None or not mapping.layers or (mapping.model != "transformer" and delta.is_zero):
        return []  # ComfyUI saves zeros for a text encoder that was not trained
    _refuse_infinite(layer, delta.tensors)
    try:
        return list(split_fused(delta, mapping, names))
    except ValueError as error:
        raise ValueError(f"{error}{foreign_model_hint(tensors, names)}") from error


def _vectors(mapped: MappedLayer, names: LayerNames) -> list[tuple[VectorName, Tensor]]:
    layer, mapping = mapped.layer, mapped.mapping
    deltas = norm_deltas(layer, mapping) if isinstance(mapping, VectorName) else bias_deltas(layer, mapping, names)
    found = list(deltas)
    _refuse_infinite(layer, tuple(vector for _, vector in found))
    return found


def _refuse_infinite(layer: FileLayer, tensors: tuple[Tensor, ...]) -> None:
    if not all(tensor.isfinite().all() for tensor in tensors):
        what = "an alpha that makes" if "alpha" in layer.tensors else "numbers that make"
        raise ValueError(f"has {what} {layer.name} infinite: expected finite weights")


def _are_equal(first: WeightDelta, second: WeightDelta) -> bool:
    """Some files hold a layer in two layouts, which is accepted if both are equal."""
    is_same_kind = type(first) is type(second) and len(first.tensors) == len(second.tensors)
    return is_same_kind and all(map(torch.equal, first.tensors, second.tensors))


def _refuse_different(are_equal: bool, layer: str) -> None:
    if not are_equal:
        raise ValueError(f"has two different weight deltas for {layer}: expected only one")
