"""Name what a tensor belongs to that is no LoRA, from its key. Knows no model."""

import re
from collections.abc import Iterable

# Patterns of keys -> what they belong to; the first pattern that matches any key counts.
KINDS = (
    (r"(^|[._])(oft|boft)(_|\b)|oft_(blocks|diag|[RS])\b|boft_[RS]\b", "an OFT, which rotates weights"),
    (r"\bon_input\b|\bia3_l\b", "an (IA)^3, which multiplies activations"),
    (r"\bvera_(lambda|[AB])", "a VeRA, which needs random matrices that are not in the file"),
    (r"^hypernet|\bhypernet", "a hypernetwork"),
    (r"\.set_weight$|modules_to_save|\.original_module\.", "whole weights that replace the model's"),
    (r"\.reshape_weight$", "a LoRA that changes the size of a layer"),
    (r"(^|[._])(qweight|wscales|qzeros|weight_scale|scale_weight|scale_input|input_scale)(\b|_)", "quantized weights"),
    (
        r"^(emb_params|string_to_(param|token).*|clip_[lg]|t5xxl|t5)$|^bundle_emb\b|lora_embedding_[AB]"
        r"|token_embedding|position_embedding|embed_tokens|\bshared\b",
        "an embedding",
    ),
    (r"\bip_adapter|\bimage_proj\.|\bcontrolnet|\bcontrol_model\.", "a ControlNet or an IP-Adapter"),
    (r"^(?!.*(lora|hada|lokr|\.(up|down)\.)).*(^|\.)(weight|bias|scale)$", "a whole weight of a model"),
)


def other_adapter_hint(keys: Iterable[str]) -> str:
    """The end of a sentence that names what keys belong to; empty if that is unknown."""
    keys = tuple(keys)
    for pattern, kind in KINDS:
        if any(re.search(pattern, key) for key in keys):
            return f"; it is {kind}: expected a LoRA, LoHa, LoKr, GLoRA or DoRA"
    return ""
