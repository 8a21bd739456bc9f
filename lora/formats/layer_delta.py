"""Read the weight delta of a layer, by the decomposition that its tensors are named for. Knows no names of layers."""

from collections.abc import Callable, Mapping

from lora.formats.decompositions.loha import loha_delta
from lora.formats.decompositions.lokr import lokr_delta
from lora.formats.decompositions.plain import plain_delta
from lora.formats.tensor_keys import FileLayer
from lora.formats.weight_deltas import WeightDelta

# By the prefix of the kinds of a layer's tensors.
DECOMPOSITIONS: Mapping[str, Callable[[FileLayer], WeightDelta]] = {
    "lora": plain_delta,
    "hada": loha_delta,
    "lokr": lokr_delta,
}
# Why a layer with a tensor of this kind is refused.
REFUSED = {
    "magnitude": "is a DoRA, which is not supported: expected a plain LoRA, a LoHa or a LoKr",
    "convolution": "is for a convolution: expected only linear layers, as in FLUX.1",
}


def weight_delta_of(layer: FileLayer) -> WeightDelta:
    """The weight delta of a layer. Raises ValueError with the end of a sentence if a tensor is missing, does not match
    the others, or belongs to no known decomposition."""
    for kind, reason in REFUSED.items():
        if kind in layer.tensors:
            raise ValueError(f"has {layer.tensors[kind].key} and {reason}")
    for addition in layer.additions:
        if addition.tensor.any():
            raise ValueError(f"has {addition.key}, a bias or a full weight difference: expected low-rank matrices")
    decompositions = {kind.split("_")[0] for kind in layer.tensors} - {"alpha"}
    if len(decompositions) != 1:
        found = " and ".join(sorted(decompositions)) or "only an alpha"
        raise ValueError(f"has {found} for {layer.name}: expected one of {', '.join(DECOMPOSITIONS)}")
    return DECOMPOSITIONS[decompositions.pop()](layer)
