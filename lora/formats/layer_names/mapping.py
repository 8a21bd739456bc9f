"""Map the name of a layer in any layout to layers of FLUX.1. Knows no tensors."""

import re
from collections.abc import Iterator

from lora.formats.layer_names.bfl import bfl_layer
from lora.formats.layer_names.diffusers import diffusers_layer
from lora.formats.layer_names.norms import transformer_norm
from lora.formats.layer_names.text_encoders import text_encoder_layer, text_encoder_norm
from lora.formats.layer_names.xlabs import xlabs_layer
from lora.formats.weight_deltas import LayerMapping, VectorName

# Names of modules that wrap a model: of PEFT, of torch.compile, of data parallel training.
WRAPPERS = re.compile(r"\bbase_model\.model\.|\b_orig_mod\.|^module\.")
# The prefixes of layers of the transformer, by the separator in their names.
PREFIXES = {
    # BFL's own checkpoints; ComfyUI; diffusers, PEFT, ai-toolkit, SimpleTuner, OneTrainer; BFL, fal and XLabs
    ".": ("model.diffusion_model.", "diffusion_model.", "transformer.", ""),
    # sd-scripts; OneTrainer; LyCORIS
    "_": ("lora_unet_", "lora_transformer_", "lycoris_"),
}


def find_layer(name: str) -> LayerMapping | None:
    """Map a linear layer with its prefix; None if FLUX.1 has no linear layer of this name."""
    return next(_layers(WRAPPERS.sub("", name)), None)


def find_norm(name: str) -> VectorName | None:
    """Map a norm with its prefix; None if FLUX.1 has no norm of this name."""
    name = WRAPPERS.sub("", name)
    found = (transformer_norm(rest, separator=separator) for separator, rest in _without_prefix(name))
    return next((norm for norm in found if norm), None) or text_encoder_norm(name)


def _without_prefix(name: str) -> Iterator[tuple[str, str]]:
    """Each separator of names, and what follows a prefix that is used with it."""
    for separator, prefixes in PREFIXES.items():
        for prefix in prefixes:
            if name.startswith(prefix):
                yield separator, name.removeprefix(prefix)


def _layers(name: str) -> Iterator[LayerMapping]:
    for separator, rest in _without_prefix(name):
        found = (
            diffusers_layer(rest, separator=separator),
            bfl_layer(rest, separator=separator),
            xlabs_layer(rest),
        )
        yield from (mapping for mapping in found if mapping)
    if mapping := text_encoder_layer(name):
        yield mapping
