"""Choose which components of a base are on the GPU, by the memory that is free. Loads nothing."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from lora.base.dimensions import Dimensions
from lora.base.family import TRANSFORMER, VAE
from lora.families.registry import family_of

GIB = 2**30
# Generating an image of 1440 x 1440 takes most memory while the VAE decodes: 3.2 GB in bf16, counted with tensors that
# hold no data; or, beside four reference images of a megapixel, while klein 9B predicts: 3.7 GB, counted likewise but
# without attention's own memory. The rest is an estimate of cuDNN's workspace and of what the allocator cannot use.
GENERATION_BYTES = 5_000_000_000


@dataclass(frozen=True, slots=True)
class DeviceMap:
    """The device of each component."""

    on_gpu: tuple[str, ...]  # components; all others are on the host
    streamed_blocks: int = 0  # of the transformer, with weights on the host (lora/engine/streaming.py)


def device_map(
    component_bytes: Mapping[str, int],
    dimensions: Dimensions,
    *,
    text_encoders: tuple[str, ...],
    weight_bytes: int,
    free_bytes: int,
) -> DeviceMap:
    """The fastest placement that leaves a GPU with `free_bytes` of free memory enough to generate images.

    `component_bytes` are those of all components by name, in the precision that they are loaded in, where a weight has
    `weight_bytes`; `text_encoders` are from the smallest to the largest. Raises MemoryError with one sentence if the
    transformer does not fit even when all blocks stream.
    """
    needed: float = math.inf
    for candidate in _candidates(dimensions, text_encoders):
        offloaded = dimensions.offloaded_weights(candidate.streamed_blocks, with_modulation=True) * weight_bytes
        needed = min(needed, sum(component_bytes[name] for name in candidate.on_gpu) - offloaded + GENERATION_BYTES)
        if needed <= free_bytes:
            return candidate
    raise MemoryError(
        f"the GPU has {free_bytes / GIB:.1f} GiB of free memory: expected at least {needed / GIB:.1f} GiB, of which"
        f" {GENERATION_BYTES / GIB:.1f} GiB are for generating images"
    )


def _candidates(dimensions: Dimensions, text_encoders: tuple[str, ...]) -> Iterator[DeviceMap]:
    """All placements, from the fastest to the smallest: the largest text encoder goes to the host first. Never the VAE:
    memory is scarcest while it decodes."""
    for kept in range(len(text_encoders), -1, -1):
        on_gpu = (TRANSFORMER, VAE, *text_encoders[:kept])
        yield DeviceMap(on_gpu)
    for count in range(1, dimensions.blocks + 1):
        yield DeviceMap(on_gpu, count)


def bytes_of_components(base: Path, dtype: torch.dtype) -> dict[str, int]:
    """The bytes of each component of a folder in diffusers layout when loaded in a precision, from the headers of its
    files."""
    components = family_of(base).components.models
    return {component: parameter_count(base / component) * dtype.itemsize for component in components}


def parameter_count(folder: Path) -> int:
    """The number of weights in the files of one model, from their headers."""
    return sum(_parameters_in(file) for file in _weight_files(folder))


def _parameters_in(file: Path) -> int:
    with safe_open(file, framework="pt") as opened:
        names = opened.keys()
        return sum(math.prod(opened.get_slice(name).get_shape()) for name in names)


def _weight_files(folder: Path) -> list[Path]:
    """The files that an index names, or the only file."""
    for index in folder.glob("*.safetensors.index.json"):
        return [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
    return list(folder.glob("*.safetensors"))
