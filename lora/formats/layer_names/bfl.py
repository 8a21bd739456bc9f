"""The layer names of Black Forest Labs' original models, which sd-scripts, musubi-tuner, ai-toolkit (FLUX.2) and
ComfyUI use too."""

import re

from lora.formats.layer_names.record import BlockNames, LayerNames
from lora.formats.layer_names.shared import FINAL_MODULATION, ORIGINAL_FINAL_MODULATION
from lora.formats.weight_deltas import LayerMapping


def bfl_layer(name: str, names: LayerNames, *, separator: str) -> LayerMapping | None:
    """Map a layer such as double_blocks.0.img_attn.qkv, or double_blocks_0_img_attn_qkv with the separator "_".

    One layer of a fused one may be given by its number, as OneTrainer does: img_attn.qkv.0. None if there is no layer
    of this name.
    """
    if name == ORIGINAL_FINAL_MODULATION.replace(".", separator):
        return LayerMapping("transformer", (FINAL_MODULATION,), is_swapped=True)
    for original, diffusers in names.outside.items():
        if name == original.replace(".", separator):
            return LayerMapping("transformer", (diffusers,))
    for blocks in names.blocks:
        match = re.fullmatch(rf"{blocks.original}{re.escape(separator)}(\d+){re.escape(separator)}(.+)", name)
        parts = _parts(blocks, separator).get(match[2]) if match else None
        if match and parts:
            return LayerMapping("transformer", tuple(f"{blocks.diffusers}.{int(match[1])}.{part}" for part in parts))
    return None


def _parts(blocks: BlockNames, separator: str) -> dict[str, tuple[str, ...]]:
    """The layers of diffusers for each name of a layer in a block."""
    whole = {layer.replace(".", separator): parts for layer, parts in blocks.layers.items()}
    fused = ((layer, parts) for layer, parts in whole.items() if len(parts) > 1)
    numbered = {f"{layer}{separator}{number}": (part,) for layer, parts in fused for number, part in enumerate(parts)}
    return whole | numbered
