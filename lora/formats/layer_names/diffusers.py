"""The layer names of diffusers, which PEFT, ai-toolkit, OneTrainer and SimpleTuner use too."""

import re

from lora.formats.kohya import BLOCKS
from lora.formats.layer_names.bfl import OUTSIDE
from lora.formats.weight_deltas import LayerMapping

OUTSIDE_BLOCKS = (*OUTSIDE.values(), "norm_out.linear")


def diffusers_layer(name: str, *, separator: str) -> LayerMapping | None:
    """Map a layer such as transformer_blocks.0.attn.to_q, or transformer_blocks_0_attn_to_q with the separator "_".

    None if there is no layer of this name.
    """
    for layer in OUTSIDE_BLOCKS:
        if name == layer.replace(".", separator):
            return LayerMapping("transformer", (layer,))
    for kind, (_, layers) in BLOCKS.items():
        match = re.fullmatch(rf"{kind}{re.escape(separator)}(\d+){re.escape(separator)}(.+)", name)
        for part in (part for parts in layers.values() for part in parts):
            if match and match[2] == part.replace(".", separator):
                return LayerMapping("transformer", (f"{kind}.{int(match[1])}.{part}",))
    return None
