"""Convert a LoRA to the layout of kohya's sd-scripts (FLUX.1) and musubi-tuner (FLUX.2), where some layers are fused.
Knows no file and no family.

Both name layers as the original models do, which have one layer where diffusers has to_q, to_k and to_v (and proj_mlp
in single blocks of FLUX.1): networks/convert_flux_lora.py of sd-scripts, networks/lora_flux_2.py of musubi-tuner.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lora.formats.fused_layers import heights
from lora.formats.layer_names.record import LayerNames

PREFIX, DOWN, UP = "transformer.", ".lora_A.weight", ".lora_B.weight"
KOHYA_PREFIX = "lora_unet_"


@dataclass(frozen=True, slots=True)
class FusedLayer:
    """A layer of sd-scripts, and the names in diffusers of the layers that it fuses, top rows first."""

    name: str
    parts: tuple[str, ...]


def fused_layer(name: str, names: LayerNames) -> FusedLayer:
    """The fused layer that contains the layer `name` of diffusers, without prefix.

    Raises ValueError for a layer outside the blocks.
    """
    layer = names.block_layer(name)
    if layer is None:
        raise ValueError(f"{name} does not exist in kohya's layout: expected a layer inside the blocks of {names.name}")
    block = f"{layer.blocks.diffusers}.{layer.number}"
    fused = f"{layer.blocks.original}.{layer.number}.{layer.original}".replace(".", "_")
    return FusedLayer(fused, tuple(f"{block}.{part}" for part in layer.siblings))


def kohya_tensors(tensors: Mapping[str, Tensor], names: LayerNames) -> dict[str, Tensor]:
    """Convert `transformer.<layer>.lora_A/B.weight`, where alpha = rank, to `lora_unet_<layer>.lora_down/up.weight` and
    `.alpha`.

    Precision is kept. For a fused layer, A [r, in] of its layers are concatenated by rows and B [out, r] form a block
    diagonal; alpha is the sum of the ranks R, so that alpha / R stays 1. Layers that the LoRA does not change are rows
    of zeros in B. Raises ValueError for a layer outside the blocks.
    """
    layers = [name.removeprefix(PREFIX).removesuffix(DOWN) for name in tensors if name.endswith(DOWN)]
    result: dict[str, Tensor] = {}
    for layer in dict.fromkeys(fused_layer(name, names) for name in layers):
        down, up = _fused(tensors, layer.parts, names)
        result[f"{KOHYA_PREFIX}{layer.name}.lora_down.weight"] = down
        result[f"{KOHYA_PREFIX}{layer.name}.lora_up.weight"] = up
        # in fp32, as bf16 cannot represent 381: three layers of rank 127
        result[f"{KOHYA_PREFIX}{layer.name}.alpha"] = torch.tensor(float(down.shape[0]))
    return result


def _fused(tensors: Mapping[str, Tensor], parts: tuple[str, ...], names: LayerNames) -> tuple[Tensor, Tensor]:
    """A [R, in] and B [outputs of all parts, R]; a part that the LoRA does not change has rank 0."""
    down = torch.cat([tensors[key] for part in parts if (key := f"{PREFIX}{part}{DOWN}") in tensors])
    ups = [
        tensors.get(f"{PREFIX}{part}{UP}", down.new_zeros(height * down.shape[1], 0))
        for part, height in heights(parts, names).items()
    ]
    return down, torch.block_diag(*ups)
