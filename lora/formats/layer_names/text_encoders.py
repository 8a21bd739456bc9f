"""The layer names of the two text encoders of FLUX.1, CLIP and T5, in all layouts."""

import re
from collections.abc import Iterator

from lora.formats.layer_names.norms import clip_norm, t5_norm
from lora.formats.weight_deltas import LayerMapping, VectorName

# The prefixes of layers: "_" separates names of sd-scripts and OneTrainer, "." of diffusers, ComfyUI and OneTrainer.
CLIP = {
    "_": ("lora_te1_", "lora_te_"),
    ".": ("text_encoders.clip_l.transformer.", "clip_l.transformer.", "text_encoder.", "clip_l."),
}
T5 = {
    "_": ("lora_te3_", "lora_te2_"),
    ".": ("text_encoders.t5xxl.transformer.", "t5xxl.transformer.", "text_encoder_2.", "t5xxl.", "t5."),
}
CLIP_LAYERS = {
    **{f"self_attn.{part}_proj": f"self_attn.{part}_proj" for part in ("q", "k", "v", "out")},
    **{f"self_attn.to_{part}_lora": f"self_attn.{part}_proj" for part in ("q", "k", "v", "out")},  # in old diffusers
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
UNUSED = LayerMapping("clip", ())  # FLUX.1 uses CLIP's pooled output before the projection
PROJECTION = "text_projection"
T5_LAYERS = (
    *(f"layer.0.SelfAttention.{part}" for part in ("q", "k", "v", "o")),
    *(f"layer.1.DenseReluDense.{part}" for part in ("wi_0", "wi_1", "wo")),
)


def text_encoder_layer(name: str) -> LayerMapping | None:
    """Map a layer with its prefix, such as lora_te1_text_model_encoder_layers_0_mlp_fc1; None if there is no such
    layer."""
    for separator, rest in _without_prefix(name, CLIP):
        if mapping := _in_clip(rest, separator):
            return mapping
    for separator, rest in _without_prefix(name, T5):
        if mapping := _in_t5(rest, separator):
            return mapping
    return None


def text_encoder_norm(name: str) -> VectorName | None:
    """Map a norm with its prefix, such as clip_l.text_model.final_layer_norm; None if there is no such norm."""
    for separator, rest in _without_prefix(name, CLIP):
        if norm := clip_norm(rest.removeprefix(f"text_model{separator}"), separator=separator):
            return norm
    for separator, rest in _without_prefix(name, T5):
        if norm := t5_norm(rest, separator=separator):
            return norm
    return None


def _without_prefix(name: str, prefixes: dict[str, tuple[str, ...]]) -> Iterator[tuple[str, str]]:
    """Each separator of names, and what follows a prefix that is used with it. PEFT alone writes no prefix."""
    for separator, of_separator in prefixes.items():
        for prefix in of_separator:
            if name.startswith(prefix):
                yield separator, name.removeprefix(prefix)
    if name.startswith("text_model." if prefixes is CLIP else "encoder.block."):
        yield ".", name


def _in_clip(name: str, separator: str) -> LayerMapping | None:
    """Newer versions of transformers have no text_model before it."""
    if name == PROJECTION:
        return UNUSED
    start = separator.join(("encoder", "layers", ""))
    match = re.fullmatch(
        rf"(?:text_model{re.escape(separator)})?{re.escape(start)}(\d+){re.escape(separator)}(.+)", name
    )
    for part, named in CLIP_LAYERS.items():
        if match and match[2] == part.replace(".", separator):
            return LayerMapping("clip", (f"text_model.encoder.layers.{int(match[1])}.{named}",))
    return None


def _in_t5(name: str, separator: str) -> LayerMapping | None:
    start = separator.join(("encoder", "block", ""))
    match = re.fullmatch(rf"{re.escape(start)}(\d+){re.escape(separator)}(.+)", name)
    for part in T5_LAYERS:
        if match and match[2] == part.replace(".", separator):
            return LayerMapping("t5", (f"encoder.block.{int(match[1])}.{part}",))
    return None
