"""The options of how a transformer computes, and the environment variable that selects the engine."""

import os
from typing import Literal, get_args

# "plain" is the reference: PEFT's layers under autocast, and blocks as in generation. "fast" has layers in the model's
# own precision and, on a GPU, compiled blocks.
Engine = Literal["plain", "fast"]
# What is recomputed in the backward pass, from the fastest to the smallest: nothing; all but matrix products and
# attention; additionally the products that lead into an activation, GELU or SwiGLU; the whole block.
Recomputed = Literal["nothing", "pointwise", "gelu", "blocks"]
# Limit for precomputed outputs of modulation layers (lora/base/modulation.py), on the device: enough for 70 samples of
# FLUX.1 in bf16.
PRECOMPUTED_BYTES = 150_000_000

ENGINE_VARIABLE = "FLUX_ENGINE"


def chosen_engine() -> Engine:
    """The engine that the environment selects, "fast" by default. Raises ValueError for an unknown value."""
    value = os.environ.get(ENGINE_VARIABLE, "").strip() or "fast"
    for known in get_args(Engine):
        if value == known:
            return known
    raise ValueError(f"{ENGINE_VARIABLE} is {value!r}: expected {' or '.join(get_args(Engine))}")


def spaced_block_indices(count: int, *, of: int) -> list[int]:
    """The indices of `count` blocks, spaced as evenly as possible: those that stream from the host, as this leaves most
    time for each copy (lora/engine/streaming.py), or those that are recomputed as a whole."""
    return [index for index in range(of) if (index + 1) * count // of > index * count // of]
