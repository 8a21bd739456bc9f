"""The layer names of the two text encoders, CLIP and T5, in all layouts."""

import re

from lora.formats.weight_deltas import LayerMapping

# The prefixes of layers: "_" separates names of sd-scripts and OneTrainer, "." of diffusers, ComfyUI and OneTrainer.
CLIP = {
    "_": ("lora_te1_", "lora_te_"),
    ".": ("text_encoders.clip_l.transformer.", "text_encoder.", "clip_l."),
}
T5 = {
    "_": ("lora_te3_", "lora_te2_"),
    ".": ("text_encoders.t5xxl.transformer.", "text_encoder_2.", "t5."),
}
CLIP_LAYERS = {
    **{f"self_attn.{part}_proj": f"self_attn.{part}_proj" for part in ("q", "k", "v", "out")},
    **{f"self_attn.to_{part}_lora": f"self_attn.{part}_proj" for part in ("q", "k", "v", "out")},  # in old diffusers
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
T5_LAYERS = (
    *(f"layer.0.SelfAttention.{part}" for part in ("q", "k", "v", "o")),
    *(f"layer.1.DenseReluDense.{part}" for part in ("wi_0", "wi_1", "wo")),
)


def text_encoder_layer(name: str) -> LayerMapping | None:
    """Map a layer with its prefix, such as lora_te1_text_model_encoder_layers_0_mlp_fc1; None if there is no such
    layer."""
    for separator in "_.":
        for prefix in CLIP[separator]:
            if name.startswith(prefix) and (mapping := _in_clip(name.removeprefix(prefix), separator)):
                return mapping
        for prefix in T5[separator]:
            if name.startswith(prefix) and (mapping := _in_t5(name.removeprefix(prefix), separator)):
                return mapping
    return None


def _in_clip(name: str, separator: str) -> LayerMapping | None:
    """Newer versions of transformers have no text_model before it."""
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
