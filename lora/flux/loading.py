"""Load FLUX or a part of it from a folder in diffusers layout, to the device there is; let go of it again."""

import gc
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from transformers import PreTrainedModel

from lora.flux.components import load_components, load_tokenizers, wrap_loading_errors
from lora.flux.dimensions import Dimensions
from lora.flux.frozen_transformer import WeightPlacement, load_transformer
from lora.flux.placement import CLIP, T5, TRANSFORMER, VAE, DeviceMap, bytes_of_components, placement

WITHOUT_THREADS = "HF_DEACTIVATE_ASYNC_LOAD"  # lets transformers load tensor by tensor (its core_model_loading.py)


def device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def precision() -> torch.dtype:
    """bf16 on a GPU, as FLUX is published; fp32 on a CPU, where bf16 is slow or emulated."""
    return torch.bfloat16 if torch.cuda.is_available() else torch.float32


def load_pipeline(base: Path) -> FluxPipeline:
    """All of FLUX, ready to draw. What a GPU has no room for lives on the host (lora/flux/placement.py): text encoders,
    and weights of blocks, which stream to it.

    Raises MemoryError with one sentence, before anything is loaded, if the GPU has no room for the rest either, and
    ValueError with one that begins with what cannot be loaded.
    """
    here = device()
    placed = _device_map_for(here, base) if here.type == "cuda" else DeviceMap(())
    held = WeightPlacement("bf16" if here.type == "cuda" else "fp32", False, here, placed.streamed_blocks)
    parts = load_components(base, (CLIP, T5), dtype=precision())
    transformer = load_transformer(base, held)
    parts |= {TRANSFORMER: transformer, **load_components(base, (VAE,), dtype=precision())}
    pipeline = _assembled(base, parts)
    for part in placed.on_gpu:
        getattr(pipeline, part).to(here)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _device_map_for(gpu: torch.device, base: Path) -> DeviceMap:
    with wrap_loading_errors(base / TRANSFORMER):
        dimensions = Dimensions.of(transformer_config(base))
    return placement(
        bytes_of_components(base, precision()),
        dimensions,
        weight_bytes=precision().itemsize,
        free_bytes=torch.cuda.mem_get_info(gpu)[0],
    )


def transformer_config(base: Path) -> dict[str, Any]:
    """The shape of a base's transformer, by the names of diffusers."""
    return FluxTransformer2DModel.load_config(base / "transformer")


def load_encoders(base: Path, *, on: torch.device) -> FluxPipeline:
    """What turns texts and images into tensors: the pipeline without its transformer. Raises as `load_pipeline` does
    for a folder.

    No thread is started: a cancel by Cog that comes just then kills it, and who waits for its start waits for ever.
    """
    os.environ.setdefault(WITHOUT_THREADS, "1")
    parts = load_components(base, (CLIP, T5, VAE), dtype=precision())
    return _assembled(base, {**parts, TRANSFORMER: None}).to(on)


def _assembled(base: Path, parts: Mapping[str, nn.Module | None]) -> FluxPipeline:
    """With the tokenizers and the scheduler."""
    tokenizers = load_tokenizers(base)
    with wrap_loading_errors(base):
        return FluxPipeline.from_pretrained(base, local_files_only=True, **parts, **tokenizers)


@dataclass(frozen=True, slots=True)
class Home:
    """Where a module has one of its tensors."""

    module: nn.Module
    name: str
    tensor: nn.Parameter | Tensor  # a parameter or a buffer


@contextmanager
def visiting(
    target: torch.device, *modules: PreTrainedModel | ModelMixin, in_turn: Iterable[nn.Module] = ()
) -> Iterator[None]:
    """Modules are on a device for as long as they work there; those that live there already stay.

    Copies go there and what is at home stays as it is, so that the way back takes neither time nor memory; weights that
    change on a visit are lost. `in_turn` are parts of the modules of which each is there only while it is called.
    """
    homes = {inner: _homes(inner) for module in modules if module.device != target for inner in module.modules()}
    hooks = []
    together = dict(homes)
    for part in in_turn:
        tensors = [home for inner in part.modules() for home in together.pop(inner, [])]
        hooks.append(part.register_forward_pre_hook(lambda *_, tensors=tensors: _send(tensors, target)))
        hooks.append(part.register_forward_hook(lambda *_, tensors=tensors: _bring_back(tensors)))
    try:
        _send(chain.from_iterable(together.values()), target)
        yield
    finally:
        for hook in hooks:
            hook.remove()
        _bring_back(chain.from_iterable(homes.values()))


def _homes(module: nn.Module) -> list[Home]:
    """Of a module itself, without those inside it."""
    named = chain(module.named_parameters(recurse=False), module.named_buffers(recurse=False))
    return [Home(module, name, tensor) for name, tensor in named]


def _send(homes: Iterable[Home], target: torch.device) -> None:
    copies: dict[Tensor, Tensor] = {}  # a tensor that several modules share is shared there, too
    for home in homes:
        if home.tensor not in copies:
            copy = home.tensor.detach().to(target)
            is_parameter = isinstance(home.tensor, nn.Parameter)
            copies[home.tensor] = nn.Parameter(copy, requires_grad=False) if is_parameter else copy
        setattr(home.module, home.name, copies[home.tensor])


def _bring_back(homes: Iterable[Home]) -> None:
    for home in homes:
        setattr(home.module, home.name, home.tensor)


def free_memory() -> None:
    """Give back what deleted models held, on the host and on the GPU."""
    gc.collect()
    torch.cuda.empty_cache()
