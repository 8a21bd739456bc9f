"""From a layer that is several in diffusers to the change of each. Knows no names of files."""

from collections.abc import Iterator
from itertools import accumulate, pairwise

from lora.formats.kohya import MLP, MLP_RATIO
from lora.formats.weight_deltas import Change, Place


def placed(change: Change, place: Place) -> Iterator[tuple[str, Change]]:
    """The changes of the layers that `place` is made of, by their names, changing the same weights by the same.

    A layer that is left alone gets none. Raises ValueError if the rows are not those of the parts.
    """
    inputs, outputs = change.shape.inputs, change.shape.outputs
    if len(place.layers) == 1:
        yield place.layers[0], _swapped(change, place.layers[0]) if place.is_swapped else change
        return
    heights = [inputs * (MLP_RATIO if layer.endswith(MLP) else 1) for layer in place.layers]
    if sum(heights) != outputs:
        raise ValueError(
            f"is for {outputs} x {inputs} weights of {' and '.join(place.layers)} together: "
            f"expected {sum(heights)} x {inputs}, as FLUX.1 has"
        )
    for layer, (start, stop) in zip(place.layers, pairwise(accumulate(heights, initial=0)), strict=True):
        part = change.rows(range(start, stop))
        if all(tensor.any() for tensor in part.tensors):
            yield layer, part


def _swapped(change: Change, layer: str) -> Change:
    height = change.shape.outputs
    if height % 2:
        raise ValueError(f"is for {height} x {change.shape.inputs} weights of {layer}: expected rows in two halves")
    return change.rows(range(height // 2, height), range(height // 2))
