"""The layer names of diffusers, which PEFT, ai-toolkit (FLUX.1), OneTrainer and SimpleTuner use too."""

import re

from lora.formats.layer_names.record import BlockNames, LayerNames
from lora.formats.layer_names.shared import FINAL_MODULATION
from lora.formats.weight_deltas import LayerMapping

# After `fuse_qkv_projections` of a model
FUSED = {
    "attn.to_qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "attn.to_added_qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
}


def diffusers_layer(name: str, names: LayerNames, *, separator: str) -> LayerMapping | None:
    """Map a layer such as transformer_blocks.0.attn.to_q, or transformer_blocks_0_attn_to_q with the separator "_".

    None if there is no layer of this name.
    """
    for layer in (*names.outside.values(), FINAL_MODULATION):
        if name == layer.replace(".", separator):
            return LayerMapping("transformer", (layer,))
    for blocks in names.blocks:
        match = re.fullmatch(rf"{blocks.diffusers}{re.escape(separator)}(\d+){re.escape(separator)}(.+)", name)
        parts = _parts(blocks, separator).get(match[2]) if match else None
        if match and parts:
            return LayerMapping("transformer", tuple(f"{blocks.diffusers}.{int(match[1])}.{part}" for part in parts))
    return None


def _parts(blocks: BlockNames, separator: str) -> dict[str, tuple[str, ...]]:
    """The layers, of which there are several if they are fused, for each name of a layer in a block."""
    own = {part: (part,) for part in blocks.parts}
    fused = {layer: parts for layer, parts in FUSED.items() if own.keys() >= set(parts)}
    return {layer.replace(".", separator): parts for layer, parts in (own | fused).items()}
