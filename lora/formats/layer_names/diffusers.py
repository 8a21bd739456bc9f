"""The names of layers in diffusers, which PEFT, ai-toolkit, OneTrainer and SimpleTuner keep."""

import re

from lora.formats.kohya import BLOCKS
from lora.formats.layer_names.bfl import OUTSIDE
from lora.formats.weight_deltas import Place

OUTSIDE_BLOCKS = (*OUTSIDE.values(), "norm_out.linear")


def diffusers_layer(name: str, *, joint: str) -> Place | None:
    """Of a layer such as transformer_blocks.0.attn.to_q, or with `joint` _ transformer_blocks_0_attn_to_q; None if
    there is none of that name."""
    for layer in OUTSIDE_BLOCKS:
        if name == layer.replace(".", joint):
            return Place("transformer", (layer,))
    for kind, (_, layers) in BLOCKS.items():
        match = re.fullmatch(rf"{kind}{re.escape(joint)}(\d+){re.escape(joint)}(.+)", name)
        for part in (part for parts in layers.values() for part in parts):
            if match and match[2] == part.replace(".", joint):
                return Place("transformer", (f"{kind}.{int(match[1])}.{part}",))
    return None
