"""The names of layers of the two text encoders, CLIP and T5, in all layouts."""

import re

from lora.formats.weight_deltas import Place

# What stands before a layer: joined by _ of sd-scripts and OneTrainer, by dots of diffusers, ComfyUI and OneTrainer.
CLIP = {
    "_": ("lora_te1_", "lora_te_"),
    ".": ("text_encoders.clip_l.transformer.", "text_encoder.", "clip_l."),
}
T5 = {
    "_": ("lora_te3_", "lora_te2_"),
    ".": ("text_encoders.t5xxl.transformer.", "text_encoder_2.", "t5."),
}
CLIP_PARTS = {
    **{f"self_attn.{part}_proj": f"self_attn.{part}_proj" for part in ("q", "k", "v", "out")},
    **{f"self_attn.to_{part}_lora": f"self_attn.{part}_proj" for part in ("q", "k", "v", "out")},  # of old diffusers
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
T5_PARTS = (
    *(f"layer.0.SelfAttention.{part}" for part in ("q", "k", "v", "o")),
    *(f"layer.1.DenseReluDense.{part}" for part in ("wi_0", "wi_1", "wo")),
)


def text_encoder_layer(name: str) -> Place | None:
    """Of a layer with its prefix, such as lora_te1_text_model_encoder_layers_0_mlp_fc1; None if there is none."""
    for joint in "_.":
        for prefix in CLIP[joint]:
            if name.startswith(prefix) and (place := _in_clip(name.removeprefix(prefix), joint)):
                return place
        for prefix in T5[joint]:
            if name.startswith(prefix) and (place := _in_t5(name.removeprefix(prefix), joint)):
                return place
    return None


def _in_clip(name: str, joint: str) -> Place | None:
    """Newer transformers have no text_model before it."""
    start = joint.join(("encoder", "layers", ""))
    match = re.fullmatch(rf"(?:text_model{re.escape(joint)})?{re.escape(start)}(\d+){re.escape(joint)}(.+)", name)
    for part, named in CLIP_PARTS.items():
        if match and match[2] == part.replace(".", joint):
            return Place("clip", (f"text_model.encoder.layers.{int(match[1])}.{named}",))
    return None


def _in_t5(name: str, joint: str) -> Place | None:
    start = joint.join(("encoder", "block", ""))
    match = re.fullmatch(rf"{re.escape(start)}(\d+){re.escape(joint)}(.+)", name)
    for part in T5_PARTS:
        if match and match[2] == part.replace(".", joint):
            return Place("t5", (f"encoder.block.{int(match[1])}.{part}",))
    return None
