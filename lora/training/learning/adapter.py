"""The LoRA adapter: the layers that it is on, its initial weights, and the tensors that are saved."""

import re
from collections.abc import Iterable

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.training_utils import cast_training_params
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import Tensor

ADAPTER = "default"
SAVED_PRECISION = torch.bfloat16  # halves the file; weight deltas keep 2 to 3 digits


def add_lora(transformer: ModelMixin, *, layers: Iterable[str], rank: int, seed: int) -> None:
    """Add a LoRA to the layers of these names, with PEFT's initial weights (A uniform, B zero), so that it changes
    nothing yet. Its alpha equals its rank, and its weights are fp32 on the model's device.

    `add_adapter` alone would use the base's precision, and in bf16 most of the small updates of training vanish.
    """
    names = "|".join(map(re.escape, layers))  # PEFT matches whole names
    config = LoraConfig(r=rank, lora_alpha=rank, lora_dropout=0.0, target_modules=names)
    with torch.random.fork_rng(devices=[]):  # PEFT draws the initial weights on the CPU
        torch.manual_seed(seed)
        transformer.add_adapter(config, adapter_name=ADAPTER)
    cast_training_params(transformer, dtype=torch.float32)


def lora_tensors(transformer: ModelMixin) -> dict[str, Tensor]:
    """The LoRA's tensors as they are saved: bf16 on the CPU, with the keys that diffusers, ComfyUI and Replicate read,
    and with alpha / rank folded into B.

    Many readers ignore alpha, and all take a missing alpha to be the rank.
    """
    config = transformer.peft_config[ADAPTER]
    scaling = config.lora_alpha / config.r
    state = get_peft_model_state_dict(transformer, adapter_name=ADAPTER)
    return {
        f"transformer.{name}": _to_saved_precision(tensor * scaling if ".lora_B." in name else tensor)
        for name, tensor in sorted(state.items())
    }


def _to_saved_precision(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", SAVED_PRECISION).contiguous()
