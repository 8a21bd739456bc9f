"""Convert the tensors of a LoRA file in any known layout to one record, or say why not. Opens no file."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lora.formats.foreign_models import foreign_model_hint
from lora.formats.fused_layers import split_fused
from lora.formats.layer_delta import weight_delta_of
from lora.formats.layer_names.mapping import find_layer
from lora.formats.tensor_keys import FileLayer, group_by_layer
from lora.formats.weight_deltas import FluxLora, LayerMapping, Model, WeightDelta


@dataclass(frozen=True, slots=True)
class MappedLayer:
    """A layer of a file, and the layers of FLUX.1 that it applies to."""

    layer: FileLayer
    mapping: LayerMapping


def convert_lora(tensors: Mapping[str, Tensor]) -> FluxLora:
    """Convert the tensors of a LoRA file to weight deltas; every tensor must be used, or change nothing.

    Known layouts are those of diffusers and PEFT with any prefix or none, ai-toolkit, sd-scripts, ComfyUI, Black Forest
    Labs, XLabs, OneTrainer and LyCORIS (LoHa, LoKr), mixed or not.

    Raises ValueError with the end of a sentence that begins with the LoRA's name: a layer or tensor that FLUX.1 does
    not have, one matrix of two, tensors that do not match each other, an unknown decomposition, an infinite delta.
    """
    deltas: dict[Model, dict[str, WeightDelta]] = {"transformer": {}, "clip": {}, "t5": {}}
    for mapped in _map_layers(tensors):
        of_model = deltas[mapped.mapping.model]
        for layer, delta in _deltas(mapped, tensors):
            _refuse_different(of_model.setdefault(layer, delta), delta, layer)
    if not any(deltas.values()):
        raise ValueError("changes nothing: expected a LoRA on layers of FLUX.1")
    return FluxLora(**deltas)


def _map_layers(tensors: Mapping[str, Tensor]) -> Iterator[MappedLayer]:
    """The layers of FLUX.1 in a file; raises ValueError if other layers change anything."""
    file = group_by_layer(tensors)
    mappings = {layer.name: find_layer(layer.name) for layer in file.layers}
    unmapped = (layer for layer in file.layers if not mappings[layer.name] and not layer.is_zero)
    unknown = [*file.unknown_keys, *(key for layer in unmapped for key in layer.keys)]
    if unknown:
        which = f" and {len(unknown) - 1} more, which do" if unknown[1:] else ", which does"
        raise ValueError(f"has {unknown[0]}{which} not match any layer of FLUX.1{foreign_model_hint(tensors)}")
    for layer in file.layers:
        if (mapping := mappings[layer.name]) and not (layer.is_zero and not layer.tensors):
            yield MappedLayer(layer, mapping)


def _deltas(mapped: MappedLayer, tensors: Mapping[str, Tensor]) -> list[tuple[str, WeightDelta]]:
    delta = weight_delta_of(mapped.layer)
    if mapped.mapping.model != "transformer" and not all(tensor.any() for tensor in delta.tensors):
        return []  # ComfyUI saves zeros for a text encoder that was not trained
    if not all(tensor.isfinite().all() for tensor in delta.tensors):
        raise ValueError(f"has an alpha that makes {mapped.layer.name} infinite: expected finite weights")
    try:
        return list(split_fused(delta, mapped.mapping))
    except ValueError as error:
        raise ValueError(f"{error}{foreign_model_hint(tensors)}") from error


def _refuse_different(first: WeightDelta, second: WeightDelta, layer: str) -> None:
    """Some files hold a layer in two layouts, which is accepted if both are equal."""
    if first is second:
        return
    is_same_kind = type(first) is type(second) and len(first.tensors) == len(second.tensors)
    if not is_same_kind or not all(map(torch.equal, first.tensors, second.tensors)):
        raise ValueError(f"has two different weight deltas for {layer}: expected only one")
