"""Load a base, or some of its components, from a folder in diffusers layout to the GPU, or to the CPU without one."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import nn

from lora.base.components import load_components, load_tokenizers, wrap_loading_errors
from lora.base.device import device, precision
from lora.base.family import TRANSFORMER, VAE, Family
from lora.engine.pinning import has_room_to_pin, pin_weights
from lora.families.frozen_transformer import WeightPlacement, load_transformer
from lora.families.placement import DeviceMap, bytes_of_components, device_map
from lora.families.registry import family_of
from lora.host_memory import free_host_bytes

WITHOUT_THREADS = "HF_DEACTIVATE_ASYNC_LOAD"  # lets transformers load tensor by tensor (its core_model_loading.py)


def load_pipeline(base: Path) -> DiffusionPipeline:
    """Load all of a base, ready to generate images. What does not fit on a GPU stays on the host
    (lora/families/placement.py): text encoders, and weights of blocks, which stream to the GPU.

    Raises MemoryError with one sentence, before anything is loaded, if even that does not fit on the GPU;
    FileNotFoundError if weights of the transformer are missing; and ValueError with one sentence that begins with the
    component that cannot be loaded.
    """
    here, family = device(), family_of(base)
    encoders, kinds = tuple(family.components.text_encoders), family.components
    devices = _device_map_for(here, base, family) if here.type == "cuda" else DeviceMap(())
    placement = WeightPlacement("bf16" if here.type == "cuda" else "fp32", False, here, devices.streamed_blocks)
    components = load_components(base, encoders, kinds, dtype=precision())
    transformer = load_transformer(base, placement)
    components |= {TRANSFORMER: transformer, **load_components(base, (VAE,), kinds, dtype=precision())}
    pipeline = _assemble_pipeline(base, family, components)
    for name in devices.on_gpu:
        getattr(pipeline, name).to(here)
    for name in encoders:
        is_on_host = here.type == "cuda" and name not in devices.on_gpu
        if is_on_host and has_room_to_pin(components[name], free_bytes=free_host_bytes()):
            pin_weights(components[name])  # they move to the GPU for each new prompt
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _device_map_for(gpu: torch.device, base: Path, family: Family) -> DeviceMap:
    with wrap_loading_errors(base / TRANSFORMER):
        dimensions = family.transformer.dimensions(transformer_config(base))
    return device_map(
        bytes_of_components(base, precision()),
        dimensions,
        text_encoders=tuple(family.components.text_encoders),
        weight_bytes=precision().itemsize,
        free_bytes=torch.cuda.mem_get_info(gpu)[0],
    )


def transformer_config(base: Path) -> dict[str, Any]:
    """The configuration of a base's transformer, with the keys of diffusers."""
    return family_of(base).components.transformer.load_config(base / TRANSFORMER)


def load_encoders(base: Path, *, on: torch.device) -> DiffusionPipeline:
    """Load the text encoders and the VAE: the pipeline without its transformer. Raises ValueError as `load_pipeline`
    does.

    transformers must not start a thread here: if Cog cancels the job while it starts, the caller would wait for that
    thread forever.
    """
    os.environ.setdefault(WITHOUT_THREADS, "1")
    family = family_of(base)
    kinds = family.components
    components = load_components(base, (*kinds.text_encoders, VAE), kinds, dtype=precision())
    return _assemble_pipeline(base, family, {**components, TRANSFORMER: None}).to(on)


def _assemble_pipeline(base: Path, family: Family, components: Mapping[str, nn.Module | None]) -> DiffusionPipeline:
    """Build a pipeline of these components, with the base's tokenizers and scheduler."""
    kinds = family.components
    tokenizers = load_tokenizers(base, kinds)
    with wrap_loading_errors(base):
        return kinds.pipeline.from_pretrained(base, local_files_only=True, **components, **tokenizers)
