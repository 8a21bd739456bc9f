"""Split the delta of a fused layer into deltas of the layers that diffusers has instead. Knows no names of files."""

from collections.abc import Iterator
from itertools import accumulate, pairwise

from lora.formats.kohya import MLP, MLP_RATIO
from lora.formats.weight_deltas import LayerMapping, WeightDelta


def split_fused(delta: WeightDelta, mapping: LayerMapping) -> Iterator[tuple[str, WeightDelta]]:
    """Yield the layers that `mapping` names, each with its part of the delta.

    Layers that do not change are omitted. Raises ValueError if the delta does not have the rows of these layers.
    """
    inputs, outputs = delta.shape.inputs, delta.shape.outputs
    if len(mapping.layers) == 1:
        yield mapping.layers[0], _swap_halves(delta, mapping.layers[0]) if mapping.is_swapped else delta
        return
    heights = [inputs * (MLP_RATIO if layer.endswith(MLP) else 1) for layer in mapping.layers]
    if sum(heights) != outputs:
        raise ValueError(
            f"has shape {outputs} x {inputs} for {' and '.join(mapping.layers)} together: "
            f"expected {sum(heights)} x {inputs}, as in FLUX.1"
        )
    for layer, (start, stop) in zip(mapping.layers, pairwise(accumulate(heights, initial=0)), strict=True):
        part = delta.rows(range(start, stop))
        if all(tensor.any() for tensor in part.tensors):
            yield layer, part


def _swap_halves(delta: WeightDelta, layer: str) -> WeightDelta:
    height = delta.shape.outputs
    if height % 2:
        raise ValueError(f"has shape {height} x {delta.shape.inputs} for {layer}: expected an even number of rows")
    return delta.rows(range(height // 2, height), range(height // 2))
