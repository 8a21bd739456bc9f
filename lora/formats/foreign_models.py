"""Which model a LoRA was made for that FLUX.1 cannot wear, as far as names and widths tell."""

import re
from collections.abc import Mapping

from torch import Tensor

CONTROL = "a FLUX.1 Control model, such as Depth or Canny"
# The first whose pattern is found in any name.
NAMES = (
    (
        r"query_norm\.scale|key_norm\.scale|\bnorm_(added_)?[qk]\.weight",
        "a FLUX.1 Control model, such as Depth or Canny",
    ),
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
# Of Stable Diffusion, the width of the text that attn2 sees.
TEXT_WIDTHS = {768: "Stable Diffusion 1.5", 1024: "Stable Diffusion 2", 2048: "SDXL"}
READS_TEXT = re.compile(r"attn2[._]to_[kv]\b.*(lora_A|down)")
# Of transformers with names as FLUX.1 has them, the width of what the attention sees.
WIDTHS = {1536: "SD3", 2432: "SD3.5 Large", 4096: "FLUX.2 klein", 6144: "FLUX.2"}
READS_TOKENS = re.compile(
    r"(attn[._](to_q|to_k|to_v|qkv|add_q_proj)|single_blocks[._]\d+[._]linear1)\b.*(lora_A|down)|_attn_qkv\.lora_down"
)
# Of FLUX.1, how many channels the latents have together with what stands beside them.
CHANNELS = {128: CONTROL, 384: "FLUX.1 Fill"}
READS_LATENTS = re.compile(r"(x_embedder|img_in)\b.*(lora_A|down)")


def made_for(tensors: Mapping[str, Tensor]) -> str:
    """The end of a sentence that says for which model, by names as files have them; empty if nothing tells."""
    model = _by_width(tensors, READS_TEXT, TEXT_WIDTHS) or _by_name(tensors)
    model = model or _by_width(tensors, READS_LATENTS, CHANNELS) or _by_width(tensors, READS_TOKENS, WIDTHS)
    return f" (it was made for {model})" if model else ""


def _by_name(tensors: Mapping[str, Tensor]) -> str | None:
    for pattern, model in NAMES:
        if any(re.search(pattern, name) for name in tensors):
            return model
    return None


def _by_width(tensors: Mapping[str, Tensor], reads: re.Pattern[str], models: Mapping[int, str]) -> str | None:
    widths = (tensor.shape[-1] for name, tensor in tensors.items() if tensor.ndim and reads.search(name))
    return next((models[width] for width in widths if width in models), None)
