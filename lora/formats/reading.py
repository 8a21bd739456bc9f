"""From the tensors of a LoRA file in any known layout to one record, or one sentence on why not. Opens no file."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lora.formats.foreign_models import made_for
from lora.formats.fused_layers import placed
from lora.formats.layer_delta import weight_delta_of
from lora.formats.layer_names.mapping import find_layer
from lora.formats.tensor_keys import Layer, group_by_layer
from lora.formats.weight_deltas import Change, FluxLora, Model, Place


@dataclass(frozen=True, slots=True)
class Found:
    """A layer of a file, and where in FLUX.1 it is."""

    layer: Layer
    place: Place


def convert_lora(tensors: Mapping[str, Tensor]) -> FluxLora:
    """Every tensor is taken, or changes nothing; the layouts are those of diffusers and PEFT with any prefix or none,
    ai-toolkit, sd-scripts, ComfyUI, Black Forest Labs, XLabs, OneTrainer and LyCORIS (LoHa, LoKr), mixed or not.

    Raises ValueError with the end of a sentence that begins with the LoRA's name: a layer or part that FLUX.1 does not
    have, half of a pair, parts that do not fit each other, a change that is of no known form or infinite.
    """
    changes: dict[Model, dict[str, Change]] = {"transformer": {}, "clip": {}, "t5": {}}
    for found in _layers(tensors):
        of_model = changes[found.place.model]
        for layer, change in _changes(found, tensors):
            _refuse_other(of_model.setdefault(layer, change), change, layer)
    if not any(changes.values()):
        raise ValueError("changes nothing: expected a LoRA on layers of FLUX.1")
    return FluxLora(**changes)


def _layers(tensors: Mapping[str, Tensor]) -> Iterator[Found]:
    """Every layer that a file holds of FLUX.1; refuses all others that change anything."""
    held = group_by_layer(tensors)
    places = {layer.name: find_layer(layer.name) for layer in held.layers}
    strange = (layer for layer in held.layers if not places[layer.name] and not layer.is_zero)
    foreign = [*held.foreign, *(key for layer in strange for key in layer.keys)]
    if foreign:
        more = f" and {len(foreign) - 1} more, for which" if foreign[1:] else ", for which"
        raise ValueError(f"holds {foreign[0]}{more} FLUX.1 has no place{made_for(tensors)}")
    for layer in held.layers:
        if (place := places[layer.name]) and not (layer.is_zero and not layer.parts):
            yield Found(layer, place)


def _changes(found: Found, tensors: Mapping[str, Tensor]) -> list[tuple[str, Change]]:
    change = weight_delta_of(found.layer)
    if found.place.model != "transformer" and not all(tensor.any() for tensor in change.tensors):
        return []  # ComfyUI saves zeros for a text encoder that was not trained
    if not all(tensor.isfinite().all() for tensor in change.tensors):
        raise ValueError(f"has an alpha that makes {found.layer.name} infinite: it cannot be used")
    try:
        return list(placed(change, found.place))
    except ValueError as error:
        raise ValueError(f"{error}{made_for(tensors)}") from error


def _refuse_other(first: Change, second: Change, layer: str) -> None:
    """Some files hold a layer in two layouts, which is well as long as it is the same."""
    if first is second:
        return
    is_like = type(first) is type(second) and len(first.tensors) == len(second.tensors)
    if not is_like or not all(map(torch.equal, first.tensors, second.tensors)):
        raise ValueError(f"changes {layer} twice, in two ways: expected one")
