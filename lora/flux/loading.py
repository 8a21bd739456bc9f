"""Load FLUX or some of its components from a folder in diffusers layout to the GPU, or to the CPU if there is none, and
free them."""

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

from lora.engine.pinning import has_room_to_pin, pin_weights
from lora.flux.components import load_components, load_tokenizers, wrap_loading_errors
from lora.flux.dimensions import Dimensions
from lora.flux.frozen_transformer import WeightPlacement, load_transformer
from lora.flux.placement import CLIP, T5, TRANSFORMER, VAE, DeviceMap, bytes_of_components, device_map
from lora.host_memory import free_host_bytes

WITHOUT_THREADS = "HF_DEACTIVATE_ASYNC_LOAD"  # lets transformers load tensor by tensor (its core_model_loading.py)


def device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def precision() -> torch.dtype:
    """bf16 on a GPU, as FLUX is published; fp32 on a CPU, where bf16 is slow or emulated."""
    return torch.bfloat16 if torch.cuda.is_available() else torch.float32


def load_pipeline(base: Path) -> FluxPipeline:
    """Load all of FLUX, ready to generate images. What does not fit on a GPU stays on the host
    (lora/flux/placement.py): text encoders, and weights of blocks, which stream to the GPU.

    Raises MemoryError with one sentence, before anything is loaded, if even that does not fit on the GPU;
    FileNotFoundError if weights of the transformer are missing; and ValueError with one sentence that begins with the
    component that cannot be loaded.
    """
    here = device()
    devices = _device_map_for(here, base) if here.type == "cuda" else DeviceMap(())
    placement = WeightPlacement("bf16" if here.type == "cuda" else "fp32", False, here, devices.streamed_blocks)
    components = load_components(base, (CLIP, T5), dtype=precision())
    transformer = load_transformer(base, placement)
    components |= {TRANSFORMER: transformer, **load_components(base, (VAE,), dtype=precision())}
    pipeline = _assemble_pipeline(base, components)
    for name in devices.on_gpu:
        getattr(pipeline, name).to(here)
    for name in (CLIP, T5):
        is_on_host = here.type == "cuda" and name not in devices.on_gpu
        if is_on_host and has_room_to_pin(components[name], free_bytes=free_host_bytes()):
            pin_weights(components[name])  # they move to the GPU for each new prompt
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _device_map_for(gpu: torch.device, base: Path) -> DeviceMap:
    with wrap_loading_errors(base / TRANSFORMER):
        dimensions = Dimensions.of(transformer_config(base))
    return device_map(
        bytes_of_components(base, precision()),
        dimensions,
        weight_bytes=precision().itemsize,
        free_bytes=torch.cuda.mem_get_info(gpu)[0],
    )


def transformer_config(base: Path) -> dict[str, Any]:
    """The configuration of a base's transformer, with the keys of diffusers."""
    return FluxTransformer2DModel.load_config(base / "transformer")


def load_encoders(base: Path, *, on: torch.device) -> FluxPipeline:
    """Load the text encoders and the VAE: the pipeline without its transformer. Raises ValueError as `load_pipeline`
    does.

    transformers must not start a thread here: if Cog cancels the job while it starts, the caller would wait for that
    thread forever.
    """
    os.environ.setdefault(WITHOUT_THREADS, "1")
    components = load_components(base, (CLIP, T5, VAE), dtype=precision())
    return _assemble_pipeline(base, {**components, TRANSFORMER: None}).to(on)


def _assemble_pipeline(base: Path, components: Mapping[str, nn.Module | None]) -> FluxPipeline:
    """Build a pipeline of these components, with the base's tokenizers and scheduler."""
    tokenizers = load_tokenizers(base)
    with wrap_loading_errors(base):
        return FluxPipeline.from_pretrained(base, local_files_only=True, **components, **tokenizers)


@dataclass(frozen=True, slots=True)
class ModuleTensor:
    """A tensor and the module that it belongs to."""

    module: nn.Module
    name: str
    tensor: nn.Parameter | Tensor  # a parameter or a buffer


@contextmanager
def on_device(
    target: torch.device, *modules: PreTrainedModel | ModelMixin, in_turn: Iterable[nn.Module] = ()
) -> Iterator[None]:
    """Move modules to a device inside the `with` block; modules that are already there stay.

    They are moved as copies and the originals are kept, so that moving back takes neither time nor memory; changes to
    the weights inside the block are lost. Each module of `in_turn`, which are submodules, is moved only while it is
    called.
    """
    originals = {
        inner: _tensors_of(inner) for module in modules if module.device != target for inner in module.modules()
    }
    hooks = []
    together = dict(originals)
    for submodule in in_turn:
        tensors = [tensor for inner in submodule.modules() for tensor in together.pop(inner, [])]
        hooks.append(submodule.register_forward_pre_hook(lambda *_, tensors=tensors: _move_copies(tensors, target)))
        hooks.append(submodule.register_forward_hook(lambda *_, tensors=tensors: _restore(tensors)))
    try:
        _move_copies(chain.from_iterable(together.values()), target)
        yield
    finally:
        for hook in hooks:
            hook.remove()
        _restore(chain.from_iterable(originals.values()))


def _tensors_of(module: nn.Module) -> list[ModuleTensor]:
    """The tensors of a module itself, without those of its submodules."""
    named = chain(module.named_parameters(recurse=False), module.named_buffers(recurse=False))
    return [ModuleTensor(module, name, tensor) for name, tensor in named]


def _move_copies(originals: Iterable[ModuleTensor], target: torch.device) -> None:
    copies: dict[Tensor, Tensor] = {}  # modules that share a tensor share its copy, too
    for original in originals:
        if original.tensor not in copies:
            copy = original.tensor.detach().to(target, non_blocking=target.type == "cuda")  # if it is pinned
            is_parameter = isinstance(original.tensor, nn.Parameter)
            copies[original.tensor] = nn.Parameter(copy, requires_grad=False) if is_parameter else copy
        setattr(original.module, original.name, copies[original.tensor])


def _restore(originals: Iterable[ModuleTensor]) -> None:
    for original in originals:
        setattr(original.module, original.name, original.tensor)


def free_memory() -> None:
    """Free the memory of deleted models, on the host and on the GPU."""
    gc.collect()
    torch.cuda.empty_cache()
