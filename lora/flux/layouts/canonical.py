"""From the tensors of a LoRA file in any known layout to one record, or one sentence on why not. Opens no file."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lora.flux.layouts.forms import pair_of
from lora.flux.layouts.fusing import placed
from lora.flux.layouts.origin import made_for
from lora.flux.layouts.parts import Layer, sort_by_layer
from lora.flux.layouts.places import find_place
from lora.flux.layouts.record import FluxLora, Model, Pair, Place
from lora.flux.layouts.size import refuse_growth


@dataclass(frozen=True, slots=True)
class Found:
    """A layer of a file, and where in FLUX.1 it is."""

    layer: Layer
    place: Place


def canonical(tensors: Mapping[str, Tensor]) -> FluxLora:
    """Every tensor is taken, or changes nothing; the layouts are those of diffusers and PEFT with any prefix or none,
    ai-toolkit, sd-scripts, ComfyUI, Black Forest Labs, XLabs, OneTrainer and LyCORIS (LoHa, LoKr), mixed or not.

    Raises ValueError with the end of a sentence that begins with the LoRA's name: a layer or part that FLUX.1 does not
    have, half of a pair, parts that do not fit each other, a change that is no product of two matrices.
    """
    pairs: dict[Model, dict[str, Pair]] = {"transformer": {}, "clip": {}, "t5": {}}
    grown = 0
    for found in _layers(tensors):
        of_model = pairs[found.place.model]
        for layer, pair in _pairs(found, tensors):
            _refuse_other(of_model.setdefault(layer, pair), pair, layer)
            grown += 0 if found.layer.is_plain else pair.numbers
        refuse_growth(grown)
    if not any(pairs.values()):
        raise ValueError("changes nothing: expected a LoRA on layers of FLUX.1")
    return FluxLora(**pairs)


def _layers(tensors: Mapping[str, Tensor]) -> Iterator[Found]:
    """Every layer that a file holds of FLUX.1; refuses all others that change anything."""
    held = sort_by_layer(tensors)
    places = {layer.name: find_place(layer.name) for layer in held.layers}
    strange = (layer for layer in held.layers if not places[layer.name] and not layer.is_idle)
    foreign = [*held.foreign, *(key for layer in strange for key in layer.keys)]
    if foreign:
        more = f" and {len(foreign) - 1} more, for which" if foreign[1:] else ", for which"
        raise ValueError(f"holds {foreign[0]}{more} FLUX.1 has no place{made_for(tensors)}")
    for layer in held.layers:
        if (place := places[layer.name]) and not (layer.is_idle and not layer.parts):
            yield Found(layer, place)


def _pairs(found: Found, tensors: Mapping[str, Tensor]) -> list[tuple[str, Pair]]:
    pair = pair_of(found.layer)
    if found.place.model != "transformer" and not (pair.up.any() and pair.down.any()):
        return []  # ComfyUI saves zeros for a text encoder that was not trained
    try:
        return list(placed(pair, found.place))
    except ValueError as error:
        raise ValueError(f"{error}{made_for(tensors)}") from error


def _refuse_other(first: Pair, second: Pair, layer: str) -> None:
    """Some files hold a layer in two layouts, which is well as long as it is the same."""
    if first is not second and not (torch.equal(first.down, second.down) and torch.equal(first.up, second.up)):
        raise ValueError(f"changes {layer} twice, in two ways: expected one")
