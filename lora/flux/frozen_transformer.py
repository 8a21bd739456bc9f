"""Hold the transformer: frozen, in one of several precisions, straight from its files with no second copy."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lora.engine.int8 import Int8Linear, W8A8Linear, supports_int8_matmul
from lora.engine.linears import HostLinear, Nf4Linear, StoredLinear
from lora.engine.options import streamed_block_indices
from lora.engine.precision import Precision
from lora.engine.streaming import BlockStream
from lora.flux.components import is_sample_finite, wrap_loading_errors

WEIGHTS = "diffusion_pytorch_model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
# Quantised: linear layers inside the blocks. The few outside cost little memory, and much quality if rounded.
IN_BLOCK = re.compile(r"(single_)?transformer_blocks\.\d+\.")
# These see the timestep, the guidance and the pooled text only: neither tokens nor anything that is trained.
MODULATION = re.compile(
    r"transformer_blocks\.\d+\.(norm1|norm1_context)\.linear|single_transformer_blocks\.\d+\.norm\.linear"
)


@dataclass(frozen=True, slots=True)
class WeightPlacement:
    """How the transformer is held."""

    precision: Precision  # of linear layers inside the blocks; what else there is has `dtype`
    modulation_on_host: bool  # the weights of modulation layers stay in host memory, in `dtype` whatever the precision
    device: torch.device
    streamed_blocks: int = 0  # so many blocks have their other weights in host memory, too (lora/engine/streaming.py)

    @property
    def dtype(self) -> torch.dtype:
        """What is computed in: fp32 if that is asked for, or for quantised weights on a CPU; else bf16."""
        on_cpu = self.device.type == "cpu" and self.precision in ("int8", "nf4")
        return torch.float32 if self.precision == "fp32" or on_cpu else torch.bfloat16


# Named tensors for parameters of these names and shapes, each once.
Source = Callable[[Mapping[str, torch.Size]], Iterator[tuple[str, Tensor]]]


def load_transformer(base: Path, held: WeightPlacement) -> FluxTransformer2DModel:
    """The transformer of a folder in diffusers layout, frozen, in eval mode; one tensor at a time goes from the file
    to its device and precision.

    Raises ValueError if the config or a file is damaged, a tensor is missing, not expected or of another shape, naming
    file and tensor; FileNotFoundError if a shard or all weights are missing.
    """
    folder = base / "transformer"
    with wrap_loading_errors(folder), torch.device("meta"):
        transformer = FluxTransformer2DModel.from_config(FluxTransformer2DModel.load_config(folder))
    return build_transformer(transformer, partial(_loaded, folder), held)


def build_transformer(
    transformer: FluxTransformer2DModel, source: Source, held: WeightPlacement
) -> FluxTransformer2DModel:
    """The same from a transformer on the meta device and tensors of any origin; raises what `source` raises."""
    shapes = {name: parameter.shape for name, parameter in transformer.named_parameters()}
    _replace_linears(transformer, held)
    stream = _stream_of(transformer, held.streamed_blocks, held.device)
    for name, tensor in source(shapes):
        module = _place(transformer, name, tensor, held)
        if name.endswith(".weight") and stream.takes(module):
            stream.keep(module)
    transformer.is_loaded_in_4bit = held.precision == "nf4"  # PEFT asks the model for it before it looks at a layer
    return transformer.requires_grad_(False).eval()


def _stream_of(transformer: FluxTransformer2DModel, count: int, device: torch.device) -> BlockStream:
    """For so many of a transformer's blocks."""
    blocks = [*transformer.transformer_blocks, *transformer.single_transformer_blocks]
    return BlockStream([blocks[place] for place in streamed_block_indices(count, of=len(blocks))], device)


def _loaded(folder: Path, shapes: Mapping[str, torch.Size]) -> Iterator[tuple[str, Tensor]]:
    """From the files of a folder, which have to hold these and nothing else."""
    missing = dict(shapes)
    for shard in _shards(folder):
        for name, tensor in _tensors(shard):
            _check(tensor, name, missing.pop(name, None), shard)
            yield name, tensor
    if missing:
        raise ValueError(f"{folder} has no tensor {min(missing)}: expected {len(missing)} more, of a FLUX transformer")


def _replace_linears(transformer: FluxTransformer2DModel, held: WeightPlacement) -> None:
    for name, layer in list(transformer.named_modules()):
        if isinstance(layer, nn.Linear) and (replacement := _replacement(name, layer, held)) is not None:
            parent, _, attribute = name.rpartition(".")
            transformer.get_submodule(parent).register_module(attribute, replacement)


def _replacement(name: str, layer: nn.Linear, held: WeightPlacement) -> StoredLinear | None:
    """What stands in for a layer; None where it stays."""
    if held.modulation_on_host and MODULATION.fullmatch(name):
        return HostLinear(layer)
    if held.precision == "int8" and IN_BLOCK.match(name):
        is_per_token = not MODULATION.fullmatch(name)  # else it is little work, and much quality if inputs are rounded
        kind = W8A8Linear if is_per_token and supports_int8_matmul(layer, held.device) else Int8Linear
        return kind(layer, dtype=held.dtype)
    if held.precision == "nf4" and IN_BLOCK.match(name):
        return Nf4Linear(layer, dtype=held.dtype)
    return None


def _shards(folder: Path) -> list[Path]:
    """The files of weights: one, or those that an index names."""
    index = folder / INDEX
    if not index.is_file():
        return [folder / WEIGHTS]
    return [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]


def _tensors(shard: Path) -> Iterator[tuple[str, Tensor]]:
    if not shard.is_file():
        raise FileNotFoundError(f"{shard} is missing: expected weights of a FLUX transformer")
    try:
        with safe_open(shard, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (no mapping: it has no __iter__)
                yield name, file.get_tensor(name)
    except SafetensorError as error:
        raise ValueError(f"{shard} is damaged ({error}): expected a whole safetensors file") from error


def _check(tensor: Tensor, name: str, expected: torch.Size | None, shard: Path) -> None:
    if expected is None:
        raise ValueError(f"{shard} holds the tensor {name}: expected none of that name, or only one")
    if tensor.shape != expected:
        raise ValueError(f"{shard} holds {name} of shape {list(tensor.shape)}: expected {list(expected)}")
    if not is_sample_finite(tensor):
        raise ValueError(f"{shard} holds {name}, where infinite or no numbers are: expected weights")


def _place(transformer: FluxTransformer2DModel, name: str, tensor: Tensor, held: WeightPlacement) -> nn.Module:
    """The module that it is now in."""
    parent, _, attribute = name.rpartition(".")
    module = transformer.get_submodule(parent)
    if attribute == "weight" and isinstance(module, StoredLinear):
        module.hold(tensor, device=held.device, dtype=held.dtype)
    else:
        module.register_parameter(attribute, nn.Parameter(tensor.to(held.device, held.dtype), requires_grad=False))
    return module
