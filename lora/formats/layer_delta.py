"""Read the weight delta of a layer, by the decomposition that its tensors are named for. Knows no names of layers."""

from collections.abc import Callable, Mapping

from lora.formats.decompositions.dora import dora_delta
from lora.formats.decompositions.factors import Dense
from lora.formats.decompositions.glora import glora_delta
from lora.formats.decompositions.loha import loha_delta
from lora.formats.decompositions.lokr import lokr_delta
from lora.formats.decompositions.plain import plain_delta
from lora.formats.tensor_keys import OF_BIAS, FileLayer
from lora.formats.weight_deltas import LayerMapping, WeightDelta

# By the prefix of the kinds of a layer's tensors.
DECOMPOSITIONS: Mapping[str, Callable[[FileLayer, LayerMapping], WeightDelta]] = {
    "lora": lambda layer, _: plain_delta(layer),
    "hada": lambda layer, _: loha_delta(layer),
    "lokr": lambda layer, _: lokr_delta(layer),
    "glora": glora_delta,
    "difference": lambda layer, _: Dense(layer.matrix("difference")),
}
NEUTRAL = OF_BIAS | {"alpha", "magnitude"}  # kinds that belong to no decomposition of the weights


def weight_delta_of(layer: FileLayer, mapping: LayerMapping) -> WeightDelta | None:
    """The delta of a layer's weights; None if it changes only the bias. `mapping` names the layers that it applies to.

    Raises ValueError with the end of a sentence if a tensor is missing, does not match the others, or belongs to no
    known decomposition.
    """
    if "convolution" in layer.tensors:
        key = layer.tensors["convolution"].key
        raise ValueError(f"has {key} and is for a convolution: expected only linear layers, as in FLUX")
    kinds = layer.tensors.keys() - NEUTRAL
    if not layer.changed_by("difference"):
        kinds -= {"difference"}
    found = sorted({kind.split("_")[0] for kind in kinds})
    if not found and layer.tensors.keys() - {"alpha"} and "magnitude" not in layer.tensors:
        return None
    if len(found) != 1:
        named = " and ".join(found) or f"only {'a magnitude' if 'magnitude' in layer.tensors else 'an alpha'}"
        raise ValueError(f"has {named} for {layer.name}: expected one of {', '.join(DECOMPOSITIONS)}")
    delta = DECOMPOSITIONS[found[0]](layer, mapping)
    return dora_delta(delta, layer, mapping) if "magnitude" in layer.tensors else delta
