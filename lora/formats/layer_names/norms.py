"""The names of the norms of transformers, and of CLIP and T5, in all layouts. Their scales are no matrices."""

import re

from lora.formats.layer_names.record import LayerNames
from lora.formats.weight_deltas import VectorName

CLIP_NORMS = ("layer_norm1", "layer_norm2")
T5_NORMS = ("layer.0.layer_norm", "layer.1.layer_norm")


def transformer_norm(name: str, names: LayerNames, *, separator: str) -> VectorName | None:
    """Map a norm such as double_blocks.0.img_attn.norm.key_norm, or transformer_blocks_0_attn_norm_k with the separator
    "_". ComfyUI adds the name of the parameter in the original model, `scale`. None if there is no norm of this name.
    """
    name = name.removesuffix(f"{separator}scale")
    for blocks in names.blocks:
        own = {norm: norm for norm in blocks.norms.values()}
        for kind, by_name in ((blocks.original, blocks.norms), (blocks.diffusers, own)):
            match = re.fullmatch(rf"{kind}{re.escape(separator)}(\d+){re.escape(separator)}(.+)", name)
            for theirs, norm in by_name.items() if match else ():
                if match and match[2] == theirs.replace(".", separator):
                    return VectorName("transformer", f"{blocks.diffusers}.{int(match[1])}.{norm}", "weight")
    return None


def clip_norm(name: str, *, separator: str) -> VectorName | None:
    """Map a norm of CLIP such as encoder.layers.0.layer_norm1, without text_model; None if there is none."""
    if name == "final_layer_norm".replace(".", separator):
        return VectorName("clip", "text_model.final_layer_norm", "weight")
    match = re.fullmatch(
        rf"encoder{re.escape(separator)}layers{re.escape(separator)}(\d+){re.escape(separator)}(.+)", name
    )
    if match and match[2] in CLIP_NORMS:
        return VectorName("clip", f"text_model.encoder.layers.{int(match[1])}.{match[2]}", "weight")
    return None


def t5_norm(name: str, *, separator: str) -> VectorName | None:
    """Map a norm of T5 such as encoder.block.0.layer.0.layer_norm; None if there is none."""
    if name == "encoder.final_layer_norm".replace(".", separator):
        return VectorName("t5", "encoder.final_layer_norm", "weight")
    match = re.fullmatch(
        rf"encoder{re.escape(separator)}block{re.escape(separator)}(\d+){re.escape(separator)}(.+)", name
    )
    for norm in T5_NORMS if match else ():
        if match and match[2] == norm.replace(".", separator):
            return VectorName("t5", f"encoder.block.{int(match[1])}.{norm}", "weight")
    return None
