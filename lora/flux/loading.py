"""Load FLUX or a part of it from a folder in diffusers layout, to the device there is; let go of it again."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers.utils.logging
import torch
import transformers.utils.logging
from diffusers import FluxPipeline, FluxTransformer2DModel
from diffusers.models.modeling_utils import ModelMixin
from transformers import PreTrainedModel


def device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def precision() -> torch.dtype:
    """bf16 on a GPU, as FLUX is published; fp32 on a CPU, where bf16 is slow or emulated."""
    return torch.bfloat16 if torch.cuda.is_available() else torch.float32


def load_pipeline(base: Path) -> FluxPipeline:
    """All of FLUX, ready to draw."""
    _hide_progress_bars()
    pipeline = FluxPipeline.from_pretrained(base, dtype=precision()).to(device())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def transformer_config(base: Path) -> dict[str, Any]:
    """The shape of a base's transformer, by the names of diffusers."""
    return FluxTransformer2DModel.load_config(base / "transformer")


def load_encoders(base: Path, *, on: torch.device) -> FluxPipeline:
    """What turns texts and images into tensors: the pipeline without its transformer."""
    _hide_progress_bars()
    return FluxPipeline.from_pretrained(base, transformer=None, dtype=precision()).to(on)


@contextmanager
def visiting(target: torch.device, *modules: PreTrainedModel | ModelMixin) -> Iterator[None]:
    """Modules are on a device for as long as they work there; those that live there already stay."""
    homes = [module.device for module in modules]
    for module in modules:
        module.to(target)
    try:
        yield
    finally:
        for module, home in zip(modules, homes, strict=True):
            module.to(home)


def free_memory() -> None:
    """Give back what deleted models held, on the host and on the GPU."""
    gc.collect()
    torch.cuda.empty_cache()


def _hide_progress_bars() -> None:
    """They fill a log with lines that nobody reads; ours says what matters."""
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
