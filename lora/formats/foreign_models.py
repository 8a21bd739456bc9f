"""Guess the model that an incompatible LoRA was made for, from the names and widths of its layers."""

import re
from collections.abc import Mapping

from torch import Tensor

CONTROL = "a FLUX.1 Control model, such as Depth or Canny"
# Patterns of tensor names -> model; the first pattern that matches any name counts.
NAMES = (
    (r"(query|key)_norm\.scale$|\bnorm_(added_)?[qk]\.weight", CONTROL),
    (r"lora_te2_text_model|text_encoder_2\.text_model|label_emb|conditioner", "SDXL"),
    (r"(in|out)put_blocks|down_blocks|up_blocks|mid(dle)?_block|^unet\.", "Stable Diffusion"),
    (r"joint_blocks|context_block", "SD3"),
    (r"joint_transformer_blocks", "AuraFlow"),
    (r"(double|single)_stream_modulation|to_qkv_mlp_proj|linear_(in|out)\b", "FLUX.2"),
    (r"distilled_guidance_layer", "Chroma"),
    (r"double_stream_blocks|single_stream_blocks", "HiDream"),
    (r"img_mlp[._]fc|txt_mlp[._]fc|token_refiner|img_mod[._]linear|context_refiner\.blocks", "HunyuanVideo"),
    (r"img_mod[._]1\b|txt_mod[._]1\b|img_mlp[._]net|txt_mlp[._]net", "Qwen-Image"),
    (r"(^|[._])blocks[._]\d+[._](self_attn|cross_attn|ffn)|condition_embedder", "Wan"),
    (r"noise_refiner|layers[._]\d+[._](attention|feed_forward|adaLN)", "Lumina 2 or Z-Image"),
    (r"(^|[._])transformer_blocks[._]\d+[._]attn[12]", "LTX-Video or PixArt"),
    (r"(model|language_model)\.layers\.\d+\.(self_attn|mlp)\.", "a language model"),
)
# Stable Diffusion: the width of the text embeddings that attn2 gets.
TEXT_WIDTHS = {768: "Stable Diffusion 1.5", 1024: "Stable Diffusion 2", 2048: "SDXL"}
TEXT_LAYERS = re.compile(r"attn2[._]to_[kv]\b.*(lora_A|down)")
# Transformers with the layer names of FLUX.1: the width of the attention's input.
WIDTHS = {1536: "SD3", 2432: "SD3.5 Large", 4096: "FLUX.2 klein", 6144: "FLUX.2"}
TOKEN_LAYERS = re.compile(
    r"(attn[._](to_q|to_k|to_v|qkv|add_q_proj)|single_blocks[._]\d+[._]linear1)\b.*(lora_A|down)|_attn_qkv\.lora_down"
)
# Variants of FLUX.1: the channels of the latents and of what is concatenated to them.
CHANNELS = {128: CONTROL, 384: "FLUX.1 Fill"}
LATENT_LAYERS = re.compile(r"(x_embedder|img_in)\b.*(lora_A|down)")


def foreign_model_hint(tensors: Mapping[str, Tensor]) -> str:
    """The end of a sentence that names the model, from the tensor names of a file; empty if the model is unknown."""
    model = _by_width(tensors, TEXT_LAYERS, TEXT_WIDTHS) or _by_name(tensors)
    model = model or _by_width(tensors, LATENT_LAYERS, CHANNELS) or _by_width(tensors, TOKEN_LAYERS, WIDTHS)
    return f" (it was made for {model})" if model else ""


def _by_name(tensors: Mapping[str, Tensor]) -> str | None:
    for pattern, model in NAMES:
        if any(re.search(pattern, name) for name in tensors):
            return model
    return None


def _by_width(tensors: Mapping[str, Tensor], layers: re.Pattern[str], models: Mapping[int, str]) -> str | None:
    widths = (tensor.shape[-1] for name, tensor in tensors.items() if tensor.ndim and layers.search(name))
    return next((models[width] for width in widths if width in models), None)
