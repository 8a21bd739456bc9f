"""Split the delta of a fused layer into deltas of the layers that diffusers has instead. Knows no family."""

from collections.abc import Iterator
from itertools import accumulate, pairwise

from lora.formats.layer_names.record import SQUARE, LayerNames
from lora.formats.weight_deltas import LayerMapping, WeightDelta


def split_fused(delta: WeightDelta, mapping: LayerMapping, names: LayerNames) -> Iterator[tuple[str, WeightDelta]]:
    """Yield the layers that `mapping` names, each with its part of the delta.

    Layers that do not change are omitted. Raises ValueError if the delta does not have the rows of these layers.
    """
    inputs, outputs = delta.shape.inputs, delta.shape.outputs
    rows = rows_of_parts(mapping, outputs, names)
    if len(mapping.layers) == 1:
        if rows is None:
            layer = mapping.layers[0]
            raise ValueError(f"has shape {outputs} x {inputs} for {layer}: expected an even number of rows")
        yield mapping.layers[0], _swap_halves(delta) if mapping.is_swapped else delta
        return
    if rows is None or rows[0] != inputs:
        expected = sum(heights(mapping.layers, names).values()) * inputs
        raise ValueError(
            f"has shape {outputs} x {inputs} for {' and '.join(mapping.layers)} together: "
            f"expected {expected} x {inputs}, as in {names.name}"
        )
    for layer, (start, stop) in zip(mapping.layers, pairwise(accumulate(rows, initial=0)), strict=True):
        part = delta.rows(range(start, stop))
        if not part.is_zero:
            yield layer, part


def rows_of_parts(mapping: LayerMapping, rows: int, names: LayerNames) -> list[int] | None:
    """The number of rows of each layer that `mapping` names, if they have this many together; None if they cannot."""
    parts = [*heights(mapping.layers, names).values()] if len(mapping.layers) > 1 else [1]
    unit, rest = divmod(rows, sum(parts))
    is_odd = mapping.is_swapped and rows % 2
    return None if rest or is_odd else [unit * height for height in parts]


def heights(layers: tuple[str, ...], names: LayerNames) -> dict[str, int]:
    """The rows of each layer of diffusers in a block, in widths of the hidden states."""
    found = {layer: names.block_layer(layer) for layer in layers}
    return {layer: (each.ratio if each else SQUARE).outputs for layer, each in found.items()}


def _swap_halves(delta: WeightDelta) -> WeightDelta:
    height = delta.shape.outputs
    return delta.rows(range(height // 2, height), range(height // 2))
