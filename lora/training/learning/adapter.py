"""The LoRA itself: which layers it sits on, how it starts, what of it is saved."""

import re
from collections.abc import Iterable

import torch
from diffusers import FluxTransformer2DModel
from diffusers.training_utils import cast_training_params
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import Tensor

ADAPTER = "default"
SAVED_PRECISION = torch.bfloat16  # halves the file; the change of a weight keeps 2 to 3 digits


def add_lora(transformer: FluxTransformer2DModel, *, layers: Iterable[str], rank: int, seed: int) -> None:
    """Add a LoRA that changes nothing yet to the layers of these names: A uniform as PEFT starts it, B zero, alpha =
    rank, trained in fp32, on the device that the model computes on.

    `add_adapter` alone would take the base's precision, and in bf16 most of the small updates of training vanish.
    """
    names = "|".join(map(re.escape, layers))  # PEFT matches the whole name
    config = LoraConfig(r=rank, lora_alpha=rank, lora_dropout=0.0, target_modules=names)
    with torch.random.fork_rng(devices=[]):  # it begins on the CPU
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
