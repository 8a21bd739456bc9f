"""Read the delta of a layer's bias, and the deltas of norms. Knows no family."""

from collections.abc import Iterator
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from lora.formats.fused_layers import rows_of_parts
from lora.formats.layer_names.record import LayerNames
from lora.formats.tensor_keys import FileLayer
from lora.formats.weight_deltas import LayerMapping, VectorName


def bias_deltas(layer: FileLayer, mapping: LayerMapping, names: LayerNames) -> Iterator[tuple[VectorName, Tensor]]:
    """Yield the deltas [out], fp32, of the biases of the layers that `mapping` names; those that are 0 are omitted.

    Raises ValueError with the end of a sentence for tensors that do not match each other or these layers.
    """
    delta = _bias_delta(layer)
    if delta is None or not mapping.layers:
        return
    heights = rows_of_parts(mapping, len(delta), names)
    if heights is None:
        raise ValueError(
            f"has a bias of {len(delta)} numbers for {' and '.join(mapping.layers)}: expected one for each row"
        )
    if mapping.is_swapped:
        delta = delta.roll(len(delta) // 2)
    for name, (start, stop) in zip(mapping.layers, pairwise(accumulate(heights, initial=0)), strict=True):
        if delta[start:stop].any():
            yield VectorName(mapping.model, name, "bias"), delta[start:stop]


def norm_deltas(layer: FileLayer, norm: VectorName) -> Iterator[tuple[VectorName, Tensor]]:
    """Yield the deltas [width], fp32, of a norm's scale and bias; those that are 0 are omitted.

    Raises ValueError with the end of a sentence for a tensor that is not a vector.
    """
    for kind, name in (("difference", norm), ("bias_difference", VectorName(norm.model, norm.layer, "bias"))):
        if layer.changed_by(kind):
            yield name, layer.vector(kind)


def _bias_delta(layer: FileLayer) -> Tensor | None:
    """`diff_b` is added as it is. The biases of the two matrices of a LoRA are alpha / rank times (up @ a + b), because
    up (down x + a) + b is what the layer adds (`lora_bias` of PEFT; ai-toolkit's `use_bias`)."""
    parts = [layer.vector("bias_difference")] if layer.changed_by("bias_difference") else []
    of_matrices = [layer.vector("bias_up")] if layer.changed_by("bias_up") else []
    if layer.changed_by("bias_down"):
        of_matrices.append(_product(layer))
    if of_matrices:
        if "magnitude" in layer.tensors:
            raise ValueError(f"has a bias of a LoRA in the DoRA {layer.name}: expected one of them, as in PEFT")
        parts += [each * layer.scaling(layer.matrix("lora_up").shape[1]) for each in of_matrices]
    if len({len(part) for part in parts}) > 1:
        raise ValueError(f"is inconsistent: the biases of {layer.name} have different lengths")
    return torch.stack(parts).sum(0) if parts else None


def _product(layer: FileLayer) -> Tensor:
    up, bias = layer.matrix("lora_up"), layer.vector("bias_down")
    if up.shape[1] != len(bias):
        raise ValueError(
            f"is inconsistent: {layer.name} has rank {up.shape[1]} and a bias of {len(bias)} for its ranks"
        )
    return up @ bias
