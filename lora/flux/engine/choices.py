"""The ways in which a transformer can compute in training."""

from typing import Literal

# PEFT's layers under autocast, which is what the other is held against; or layers in the model's own precision.
Engine = Literal["plain", "fast"]
# What of a block is not kept for the backward pass but computed again, from the fastest to the smallest: all that is no
# matrix product and no attention; with it the product that goes into GELU; the whole block.
Recomputed = Literal["nothing", "pointwise", "gelu", "blocks"]
# Of what modulation layers on the host answer ahead (lora/flux/modulation.py): on the device, those to 70 samples of
# FLUX.1 in bf16.
AHEAD_BYTES = 150_000_000


def streamed_places(count: int, *, of: int) -> list[int]:
    """Which blocks have their weights on the host (lora/flux/streaming.py), if so many of all do: as far from each
    other as can be, so that there is most time on the way."""
    return [place for place in range(of) if (place + 1) * count // of > place * count // of]
