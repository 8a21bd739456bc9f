"""Map the name of a layer in any layout to layers of a family of models. Knows no tensors and no family."""

import re
from collections.abc import Iterator

from lora.formats.layer_names.bfl import bfl_layer
from lora.formats.layer_names.diffusers import diffusers_layer
from lora.formats.layer_names.norms import transformer_norm
from lora.formats.layer_names.record import LayerNames
from lora.formats.weight_deltas import LayerMapping, VectorName

# Names of modules that wrap a model: of PEFT, of torch.compile, of data parallel training.
WRAPPERS = re.compile(r"\bbase_model\.model\.|\b_orig_mod\.|^module\.")
# The prefixes of layers of the transformer, by the separator in their names.
PREFIXES = {
    # BFL's own checkpoints; ComfyUI, ai-toolkit (FLUX.2); diffusers, PEFT, ai-toolkit (FLUX.1), SimpleTuner,
    # OneTrainer; BFL, fal and XLabs
    ".": ("model.diffusion_model.", "diffusion_model.", "transformer.", ""),
    # sd-scripts, musubi-tuner; OneTrainer; LyCORIS
    "_": ("lora_unet_", "lora_transformer_", "lycoris_"),
}


def find_layer(name: str, names: LayerNames) -> LayerMapping | None:
    """Map a linear layer with its prefix; None if the family has no linear layer of this name."""
    return next(_layers(WRAPPERS.sub("", name), names), None)


def find_norm(name: str, names: LayerNames) -> VectorName | None:
    """Map a norm with its prefix; None if the family has no norm of this name."""
    name = WRAPPERS.sub("", name)
    found = (transformer_norm(rest, names, separator=separator) for separator, rest in _without_prefix(name))
    of_text = (text_norm(name) for text_norm in names.text_norms)
    return next((norm for norm in (*found, *of_text) if norm), None)


def _without_prefix(name: str) -> Iterator[tuple[str, str]]:
    """Each separator of names, and what follows a prefix that is used with it."""
    for separator, prefixes in PREFIXES.items():
        for prefix in prefixes:
            if name.startswith(prefix):
                yield separator, name.removeprefix(prefix)


def _layers(name: str, names: LayerNames) -> Iterator[LayerMapping]:
    for separator, rest in _without_prefix(name):
        found = (
            diffusers_layer(rest, names, separator=separator),
            bfl_layer(rest, names, separator=separator),
            *(other(rest) for other in names.other_names),
        )
        yield from (mapping for mapping in found if mapping)
    yield from (mapping for text_layer in names.text_layers if (mapping := text_layer(name)))
