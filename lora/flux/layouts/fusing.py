"""From a layer that is several in diffusers to the pair of each. Knows no names of files."""

from collections.abc import Iterator

import torch

from lora.flux.kohya import MLP, MLP_RATIO
from lora.flux.layouts.record import Pair, Place


def placed(pair: Pair, place: Place) -> Iterator[tuple[str, Pair]]:
    """The pairs of the layers that `place` is made of, by their names, changing the same weights by the same.

    Of a part, only columns of `up` that are not 0 in its rows count: where `up` is block-diagonal, each part gets its
    own rank back, and one that is left alone gets no pair. Raises ValueError if the rows are not those of the parts.
    """
    if place.is_swapped:
        upper, lower = pair.up.chunk(2)
        pair = Pair(pair.down, torch.cat([lower, upper]))
    if len(place.layers) == 1:
        yield place.layers[0], pair
        return
    heights = [pair.shape.inputs * (MLP_RATIO if layer.endswith(MLP) else 1) for layer in place.layers]
    if sum(heights) != pair.shape.outputs:
        inputs, outputs = pair.shape.inputs, pair.shape.outputs
        raise ValueError(
            f"is for {outputs} x {inputs} weights of {' and '.join(place.layers)} together: "
            f"expected {sum(heights)} x {inputs}, as FLUX.1 has"
        )
    for layer, up in zip(place.layers, pair.up.split(heights), strict=True):
        used = up.any(dim=0)
        if used.any():
            yield layer, Pair(pair.down[used], up[:, used])
