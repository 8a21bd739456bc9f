"""Where in FLUX.1 a layer is, by its name in any of the layouts. Knows no tensors."""

from collections.abc import Iterator

from lora.formats.layer_names.bfl import bfl_layer
from lora.formats.layer_names.diffusers import diffusers_layer
from lora.formats.layer_names.text_encoders import text_encoder_layer
from lora.formats.layer_names.xlabs import xlabs_layer
from lora.formats.weight_deltas import Place

# What stands before a layer of the transformer, by what joins the parts of its name.
PREFIXES = {
    # fal; BFL's own checkpoints; ComfyUI; diffusers, PEFT, ai-toolkit, SimpleTuner, OneTrainer; BFL and XLabs
    ".": ("base_model.model.", "model.diffusion_model.", "diffusion_model.", "transformer.", ""),
    # sd-scripts; OneTrainer; LyCORIS
    "_": ("lora_unet_", "lora_transformer_", "lycoris_"),
}


def find_layer(name: str) -> Place | None:
    """Of a layer with its prefix; None if FLUX.1 has none of that name."""
    return next(_places(name), None)


def _places(name: str) -> Iterator[Place]:
    for joint, prefixes in PREFIXES.items():
        for prefix in prefixes:
            if name.startswith(prefix):
                rest = name.removeprefix(prefix)
                found = (diffusers_layer(rest, joint=joint), bfl_layer(rest, joint=joint), xlabs_layer(rest))
                yield from (place for place in found if place)
    if place := text_encoder_layer(name):
        yield place
