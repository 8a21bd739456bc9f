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
