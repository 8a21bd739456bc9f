"""The layer names of XLabs' x-flux, for FLUX.1, whose LoRAs are in the attention processors."""

import re

from lora.formats.weight_deltas import LayerMapping

NAME = re.compile(r"(?P<kind>double|single)_blocks\.(?P<number>\d+)\.processor\.(?P<part>\w+)")
# https://github.com/XLabs-AI/x-flux/blob/main/src/flux/modules/layers.py: 1 is the image's stream, 2 the text's
LAYERS = {
    "double": {
        "qkv_lora1": ("attn.to_q", "attn.to_k", "attn.to_v"),
        "qkv_lora2": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
        "proj_lora1": ("attn.to_out.0",),
        "proj_lora2": ("attn.to_add_out",),
    },
    "single": {
        "qkv_lora": ("attn.to_q", "attn.to_k", "attn.to_v"),
        "proj_lora": ("proj_out",),
    },
}
BLOCKS = {"double": "transformer_blocks", "single": "single_transformer_blocks"}


def xlabs_layer(name: str) -> LayerMapping | None:
    """Map a layer such as double_blocks.0.processor.qkv_lora1; None if there is no layer of this name."""
    match = NAME.fullmatch(name)
    parts = LAYERS[match["kind"]].get(match["part"]) if match else None
    if not match or parts is None:
        return None
    block = f"{BLOCKS[match['kind']]}.{int(match['number'])}"
    return LayerMapping("transformer", tuple(f"{block}.{part}" for part in parts))
