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
    heights = rows_of_parts(mapping, outputs)
    if len(mapping.layers) == 1:
        if heights is None:
            layer = mapping.layers[0]
            raise ValueError(f"has shape {outputs} x {inputs} for {layer}: expected an even number of rows")
        yield mapping.layers[0], _swap_halves(delta) if mapping.is_swapped else delta
        return
    if heights is None or heights[0] != inputs:
        expected = sum(_ratio(layer) for layer in mapping.layers) * inputs
        raise ValueError(
            f"has shape {outputs} x {inputs} for {' and '.join(mapping.layers)} together: "
            f"expected {expected} x {inputs}, as in FLUX.1"
        )
    for layer, (start, stop) in zip(mapping.layers, pairwise(accumulate(heights, initial=0)), strict=True):
        part = delta.rows(range(start, stop))
        if not part.is_zero:
            yield layer, part


def rows_of_parts(mapping: LayerMapping, rows: int) -> list[int] | None:
    """The number of rows of each layer that `mapping` names, if they have this many together; None if they cannot."""
    ratios = [_ratio(layer) for layer in mapping.layers] if len(mapping.layers) > 1 else [1]
    unit, rest = divmod(rows, sum(ratios))
    is_odd = mapping.is_swapped and rows % 2
    return None if rest or is_odd else [unit * ratio for ratio in ratios]


def _ratio(layer: str) -> int:
    """The height of a layer by that of the first part of its fused layer, to_q, which is square."""
    return MLP_RATIO if layer.endswith(MLP) else 1


def _swap_halves(delta: WeightDelta) -> WeightDelta:
    height = delta.shape.outputs
    return delta.rows(range(height // 2, height), range(height // 2))
