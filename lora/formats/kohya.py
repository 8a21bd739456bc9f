"""Convert a LoRA to the layout of kohya's sd-scripts, where some layers are fused; and tables of the fused layers,
which readers of other layouts use too. Knows no file and no model.

sd-scripts names layers as the original FLUX.1 does, which has one layer where diffusers has to_q, to_k and to_v (and
proj_mlp in single blocks).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

PREFIX, DOWN, UP = "transformer.", ".lora_A.weight", ".lora_B.weight"
KOHYA_PREFIX = "lora_unet_"
# The layers that a layer of sd-scripts fuses, top rows first, as in its own networks/convert_flux_lora.py.
DOUBLE_BLOCK = {
    "img_mod_lin": ("norm1.linear",),
    "txt_mod_lin": ("norm1_context.linear",),
    "img_attn_qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "img_attn_proj": ("attn.to_out.0",),
    "txt_attn_qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "txt_attn_proj": ("attn.to_add_out",),
    "img_mlp_0": ("ff.net.0.proj",),
    "img_mlp_2": ("ff.net.2",),
    "txt_mlp_0": ("ff_context.net.0.proj",),
    "txt_mlp_2": ("ff_context.net.2",),
}
SINGLE_BLOCK = {
    "modulation_lin": ("norm.linear",),
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "linear2": ("proj_out",),
}
BLOCKS = {
    "transformer_blocks": ("double_blocks", DOUBLE_BLOCK),
    "single_transformer_blocks": ("single_blocks", SINGLE_BLOCK),
}
LAYER = re.compile(r"(?P<kind>(?:single_)?transformer_blocks)\.(?P<number>\d+)\.(?P<part>.+)")
# Of diffusers' FluxSingleTransformerBlock; to_q, to_k and to_v are as wide as their input.
MLP, MLP_RATIO = ".proj_mlp", 4


@dataclass(frozen=True, slots=True)
class FusedLayer:
    """A layer of sd-scripts, and the names in diffusers of the layers that it fuses, top rows first."""

    name: str
    parts: tuple[str, ...]


def fused_layer(name: str) -> FusedLayer:
    """The fused layer that contains the layer `name` of diffusers, without prefix.

    Raises ValueError for a layer outside the blocks.
    """
    match = LAYER.fullmatch(name)
    if match:
        kind, layers = BLOCKS[match["kind"]]
        for layer, parts in layers.items():
            if match["part"] in parts:
                block = f"{match['kind']}.{match['number']}"
                return FusedLayer(f"{kind}_{match['number']}_{layer}", tuple(f"{block}.{part}" for part in parts))
    raise ValueError(f"{name} does not exist in kohya's layout: expected a layer inside the blocks of FLUX.1")


def kohya_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert `transformer.<layer>.lora_A/B.weight`, where alpha = rank, to `lora_unet_<layer>.lora_down/up.weight` and
    `.alpha`.

    Precision is kept. For a fused layer, A [r, in] of its layers are concatenated by rows and B [out, r] form a block
    diagonal; alpha is the sum of the ranks R, so that alpha / R stays 1. Layers that the LoRA does not change are rows
    of zeros in B. Raises ValueError for a layer outside the blocks.
    """
    names = [name.removeprefix(PREFIX).removesuffix(DOWN) for name in tensors if name.endswith(DOWN)]
    result: dict[str, Tensor] = {}
    for layer in dict.fromkeys(fused_layer(name) for name in names):
        down, up = _fused(tensors, layer.parts)
        result[f"{KOHYA_PREFIX}{layer.name}.lora_down.weight"] = down
        result[f"{KOHYA_PREFIX}{layer.name}.lora_up.weight"] = up
        # in fp32, as bf16 cannot represent 381: three layers of rank 127
        result[f"{KOHYA_PREFIX}{layer.name}.alpha"] = torch.tensor(float(down.shape[0]))
    return result


def _fused(tensors: Mapping[str, Tensor], parts: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """A [R, in] and B [outputs of all parts, R]; a part that the LoRA does not change has rank 0."""
    down = torch.cat([tensors[key] for part in parts if (key := f"{PREFIX}{part}{DOWN}") in tensors])
    ups = []
    for part in parts:
        width = down.shape[1] * (MLP_RATIO if part.endswith(MLP) else 1)
        ups.append(tensors.get(f"{PREFIX}{part}{UP}", down.new_zeros(width, 0)))
    return down, torch.block_diag(*ups)
