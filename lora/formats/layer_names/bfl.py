"""The names of layers in the first FLUX.1, by Black Forest Labs, which sd-scripts and ComfyUI keep."""

import re

from lora.formats.kohya import BLOCKS
from lora.formats.weight_deltas import Place

# https://github.com/black-forest-labs/flux/blob/main/src/flux/model.py -> diffusers
OUTSIDE = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    **{
        f"{ours}.{part}_layer": f"time_text_embed.{theirs}_embedder.linear_{number}"
        for ours, theirs in (("time_in", "timestep"), ("vector_in", "text"), ("guidance_in", "guidance"))
        for part, number in (("in", 1), ("out", 2))
    },
    "final_layer.linear": "proj_out",
    "img_in.proj": "x_embedder",  # so by OneTrainer
}
# Its upper rows are the shift and its lower ones the scale, where those of diffusers are the other way round.
FINAL_MODULATION = "final_layer.adaLN_modulation.1"


def bfl_layer(name: str, *, joint: str) -> Place | None:
    """Of a layer such as double_blocks.0.img_attn.qkv, or with `joint` _ double_blocks_0_img_attn_qkv, or of one part
    by its number, as OneTrainer has them: img_attn.qkv.0. None if there is none of that name."""
    if name == FINAL_MODULATION.replace(".", joint):
        return Place("transformer", ("norm_out.linear",), is_swapped=True)
    for ours, theirs in OUTSIDE.items():
        if name == ours.replace(".", joint):
            return Place("transformer", (theirs,))
    for kind, (blocks, layers) in BLOCKS.items():
        match = re.fullmatch(rf"{blocks}{re.escape(joint)}(\d+){re.escape(joint)}(.+)", name)
        for layer, parts in layers.items() if match else ():
            dotted = joint.join(layer.rsplit("_", 1))  # the table has img_attn_qkv for img_attn.qkv
            named = {dotted: parts}
            if len(parts) > 1:
                named |= {f"{dotted}{joint}{place}": (part,) for place, part in enumerate(parts)}
            if match and match[2] in named:
                return Place("transformer", tuple(f"{kind}.{int(match[1])}.{part}" for part in named[match[2]]))
    return None
