"""Map the name of a layer in any layout to layers of FLUX.1. Knows no tensors."""

from collections.abc import Iterator

from lora.formats.layer_names.bfl import bfl_layer
from lora.formats.layer_names.diffusers import diffusers_layer
from lora.formats.layer_names.text_encoders import text_encoder_layer
from lora.formats.layer_names.xlabs import xlabs_layer
from lora.formats.weight_deltas import LayerMapping

# The prefixes of layers of the transformer, by the separator in their names.
PREFIXES = {
    # fal; BFL's own checkpoints; ComfyUI; diffusers, PEFT, ai-toolkit, SimpleTuner, OneTrainer; BFL and XLabs
    ".": ("base_model.model.", "model.diffusion_model.", "diffusion_model.", "transformer.", ""),
    # sd-scripts; OneTrainer; LyCORIS
    "_": ("lora_unet_", "lora_transformer_", "lycoris_"),
}


def find_layer(name: str) -> LayerMapping | None:
    """Map a layer with its prefix; None if FLUX.1 has no layer of this name."""
    return next(_mappings(name), None)


def _mappings(name: str) -> Iterator[LayerMapping]:
    for separator, prefixes in PREFIXES.items():
        for prefix in prefixes:
            if name.startswith(prefix):
                rest = name.removeprefix(prefix)
                found = (
                    diffusers_layer(rest, separator=separator),
                    bfl_layer(rest, separator=separator),
                    xlabs_layer(rest),
                )
                yield from (mapping for mapping in found if mapping)
    if mapping := text_encoder_layer(name):
        yield mapping
