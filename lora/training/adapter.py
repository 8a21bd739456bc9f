"""The LoRA itself: which layers it sits on, how it starts, what of it is saved."""

import torch
from diffusers import FluxTransformer2DModel
from diffusers.training_utils import cast_training_params
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import Tensor

# Every linear layer inside the blocks and none outside (PEFT matches the whole name); FLUX.1 has 494 of them.
TARGET_MODULES = (
    r"(single_)?transformer_blocks\.\d+\."
    r"(attn\.(to_q|to_k|to_v|to_out\.0|add_q_proj|add_k_proj|add_v_proj|to_add_out)"
    r"|ff\.net\.(0\.proj|2)|ff_context\.net\.(0\.proj|2)"
    r"|norm1\.linear|norm1_context\.linear|norm\.linear|proj_mlp|proj_out)"
)
ADAPTER = "default"
SAVED_PRECISION = torch.bfloat16  # halves the file; the change of a weight keeps 2 to 3 digits


def add_lora(transformer: FluxTransformer2DModel, *, rank: int, seed: int) -> None:
    """Add a LoRA that changes nothing yet: A uniform as PEFT starts it, B zero, alpha = rank, trained in fp32.

    `add_adapter` alone would take the base's precision, and in bf16 most of the small updates of training vanish.
    """
    config = LoraConfig(r=rank, lora_alpha=rank, lora_dropout=0.0, target_modules=TARGET_MODULES)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformer.add_adapter(config, adapter_name=ADAPTER)
    cast_training_params(transformer, dtype=torch.float32)


def lora_tensors(transformer: FluxTransformer2DModel) -> dict[str, Tensor]:
    """The LoRA as it is saved: keys that diffusers, ComfyUI and Replicate read, alpha / rank folded into B.

    Many readers know no alpha, and those of a file without one take it for the rank.
    """
    config = transformer.peft_config[ADAPTER]
    folded = config.lora_alpha / config.r
    state = get_peft_model_state_dict(transformer, adapter_name=ADAPTER)
    return {
        f"transformer.{name}": _saved(tensor * folded if ".lora_B." in name else tensor)
        for name, tensor in sorted(state.items())
    }


def _saved(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", SAVED_PRECISION).contiguous()
