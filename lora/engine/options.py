"""The ways in which a transformer can compute, and which one a person chose."""

import os
from typing import Literal, get_args

# What the other is held against: PEFT's layers under autocast, and blocks as they are in drawing; or layers in the
# model's own precision, and on a GPU compiled blocks.
Engine = Literal["plain", "fast"]
# What of a block is not kept for the backward pass but computed again, from the fastest to the smallest: all that is no
# matrix product and no attention; with it the product that goes into GELU; the whole block.
Recomputed = Literal["nothing", "pointwise", "gelu", "blocks"]
# Of what modulation layers on the host answer ahead (lora/flux/modulation.py): on the device, those to 70 samples of
# FLUX.1 in bf16.
PRECOMPUTED_BYTES = 150_000_000

ENGINE_VARIABLE = "FLUX_ENGINE"


def chosen_engine() -> Engine:
    """How the environment says that the transformer computes: fast if it says nothing. Raises ValueError if it says
    anything else."""
    asked = os.environ.get(ENGINE_VARIABLE, "").strip() or "fast"
    for known in get_args(Engine):
        if asked == known:
            return known
    raise ValueError(f"{ENGINE_VARIABLE} is {asked!r}: expected {' or '.join(get_args(Engine))}")


def streamed_block_indices(count: int, *, of: int) -> list[int]:
    """Which blocks have their weights on the host (lora/engine/streaming.py), if so many of all do: as far from each
    other as can be, so that there is most time on the way."""
    return [place for place in range(of) if (place + 1) * count // of > place * count // of]
