"""Which parts of FLUX live on the GPU, by the memory that is free: from numbers to names. Loads nothing."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from lora.flux.dimensions import Dimensions

GIB = 2**30
# Drawing at 1440 x 1440 takes most while the VAE decodes: 3.2 GB in bf16, counted with tensors that hold no data. The
# rest is an estimate of what cuDNN works in and of what the allocator cannot use.
GENERATION_BYTES = 5_000_000_000
TRANSFORMER, VAE, CLIP, T5 = "transformer", "vae", "text_encoder", "text_encoder_2"  # as diffusers names them
PARTS = (TRANSFORMER, VAE, CLIP, T5)
# What gives way, from the fastest to the smallest. Never the VAE: memory is shortest while it decodes.
ON_HOST: tuple[tuple[str, ...], ...] = ((), (T5,), (T5, CLIP))


@dataclass(frozen=True, slots=True)
class DeviceMap:
    """What is where."""

    on_gpu: tuple[str, ...]  # parts; others live on the host
    streamed_blocks: int = 0  # of the transformer, whose weights are on the host (lora/engine/streaming.py)


def placement(
    part_bytes: Mapping[str, int], dimensions: Dimensions, *, weight_bytes: int, free_bytes: int
) -> DeviceMap:
    """What lives on a GPU with so much free memory, so that enough is left to draw in; from the fastest to the
    smallest.

    `part_bytes` is by PARTS, in the precision that they are loaded in, in which a weight has `weight_bytes`. Raises
    MemoryError with one sentence if not even a transformer fits of which all blocks stream.
    """
    needed: float = math.inf
    for placed in _from_the_fastest(dimensions):
        away = dimensions.offloaded_weights(placed.streamed_blocks, with_modulation=True) * weight_bytes
        needed = min(needed, sum(part_bytes[part] for part in placed.on_gpu) - away + GENERATION_BYTES)
        if needed <= free_bytes:
            return placed
    raise MemoryError(
        f"the GPU has {free_bytes / GIB:.1f} GiB of free memory: expected {needed / GIB:.1f} GiB or more, of which"
        f" {GENERATION_BYTES / GIB:.1f} are to draw in"
    )


def _from_the_fastest(dimensions: Dimensions) -> Iterator[DeviceMap]:
    for on_host in ON_HOST:
        on_gpu = tuple(part for part in PARTS if part not in on_host)
        yield DeviceMap(on_gpu)
    for count in range(1, dimensions.blocks + 1):
        yield DeviceMap(on_gpu, count)


def bytes_of_components(base: Path, dtype: torch.dtype) -> dict[str, int]:
    """What each part of a folder in diffusers layout takes once it is loaded in a precision, from the headers of its
    files."""
    return {part: _numbers(base / part) * dtype.itemsize for part in PARTS}


def _numbers(folder: Path) -> int:
    return sum(_numbers_in(file) for file in _weight_files(folder))


def _numbers_in(file: Path) -> int:
    with safe_open(file, framework="pt") as opened:
        names = opened.keys()
        return sum(math.prod(opened.get_slice(name).get_shape()) for name in names)


def _weight_files(folder: Path) -> list[Path]:
    """Those that an index names, or the only one."""
    for index in folder.glob("*.safetensors.index.json"):
        return [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
    return list(folder.glob("*.safetensors"))
