"""The layer names of Black Forest Labs' original FLUX.1, which sd-scripts and ComfyUI use too."""

import re

from lora.formats.kohya import BLOCKS
from lora.formats.weight_deltas import LayerMapping

# https://github.com/black-forest-labs/flux/blob/main/src/flux/model.py -> diffusers
OUTSIDE = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    **{
        f"{bfl_name}.{part}_layer": f"time_text_embed.{diffusers_name}_embedder.linear_{number}"
        for bfl_name, diffusers_name in (("time_in", "timestep"), ("vector_in", "text"), ("guidance_in", "guidance"))
        for part, number in (("in", 1), ("out", 2))
    },
    "final_layer.linear": "proj_out",
    "img_in.proj": "x_embedder",  # in OneTrainer
}
# Its upper rows are the shift and its lower rows the scale; in diffusers it is the other way round.
FINAL_MODULATION = "final_layer.adaLN_modulation.1"


def bfl_layer(name: str, *, separator: str) -> LayerMapping | None:
    """Map a layer such as double_blocks.0.img_attn.qkv, or double_blocks_0_img_attn_qkv with the separator "_".

    One layer of a fused one may be given by its number, as OneTrainer does: img_attn.qkv.0. None if there is no layer
    of this name.
    """
    if name == FINAL_MODULATION.replace(".", separator):
        return LayerMapping("transformer", ("norm_out.linear",), is_swapped=True)
    for bfl_name, diffusers_name in OUTSIDE.items():
        if name == bfl_name.replace(".", separator):
            return LayerMapping("transformer", (diffusers_name,))
    for kind, (blocks, layers) in BLOCKS.items():
        match = re.fullmatch(rf"{blocks}{re.escape(separator)}(\d+){re.escape(separator)}(.+)", name)
        for layer, parts in layers.items() if match else ():
            dotted = separator.join(layer.rsplit("_", 1))  # the table has img_attn_qkv for img_attn.qkv
            named = {dotted: parts}
            if len(parts) > 1:
                named |= {f"{dotted}{separator}{number}": (part,) for number, part in enumerate(parts)}
            if match and match[2] in named:
                return LayerMapping("transformer", tuple(f"{kind}.{int(match[1])}.{part}" for part in named[match[2]]))
    return None
