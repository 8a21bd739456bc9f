"""Build the frozen transformer in one of several precisions, straight from its files without a second copy."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from diffusers.models.modeling_utils import ModelMixin
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lora.base.components import is_sample_finite, wrap_loading_errors
from lora.base.family import TRANSFORMER
from lora.base.transformer import spaced_blocks
from lora.engine.int8 import Int8Linear
from lora.engine.linears import HostLinear, Nf4Linear, StoredLinear
from lora.engine.matmuls import LAYERS
from lora.engine.precision import MatmulPrecision, Precision
from lora.engine.streaming import BlockStream
from lora.families.registry import family_of, family_of_model

WEIGHTS = "diffusion_pytorch_model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
# The layers that are quantized. The few linear layers outside the blocks take little memory, and rounding them would
# cost much quality.
IN_BLOCK = re.compile(r"(single_)?transformer_blocks\.\d+\.")


@dataclass(frozen=True, slots=True)
class WeightPlacement:
    """The precision and placement of the transformer's frozen weights."""

    precision: Precision  # of linear layers inside the blocks; all other parameters have `dtype`
    modulation_on_host: bool  # weights of modulation layers stay in host memory, always in `dtype`
    device: torch.device
    streamed_blocks: int = 0  # blocks whose other weights stay in host memory, too (lora/engine/streaming.py)
    matmul: MatmulPrecision = "bf16"  # how layers with 8-bit weights are multiplied

    @property
    def dtype(self) -> torch.dtype:
        """The compute precision: fp32 if `precision` is fp32 or quantized weights are on a CPU, else bf16."""
        on_cpu = self.device.type == "cpu" and self.precision in ("int8", "nf4")
        return torch.float32 if self.precision == "fp32" or on_cpu else torch.bfloat16


# Yields named tensors for parameters of the given names and shapes, each once.
TensorSource = Callable[[Mapping[str, torch.Size]], Iterator[tuple[str, Tensor]]]


def load_transformer(base: Path, placement: WeightPlacement) -> ModelMixin:
    """Load the transformer of a folder in diffusers layout, frozen and in eval mode. Tensors go one at a time from the
    file to their device and precision.

    Raises ValueError that names file and tensor if the config or a file is damaged, or if a tensor is missing, not
    expected or of another shape; FileNotFoundError if a shard or all weights are missing.
    """
    folder, kind = base / TRANSFORMER, family_of(base).components.transformer
    with wrap_loading_errors(folder), torch.device("meta"):
        transformer = kind.from_config(kind.load_config(folder))
    return build_transformer(transformer, partial(_load_tensors, folder), placement)


def build_transformer(transformer: ModelMixin, source: TensorSource, placement: WeightPlacement) -> ModelMixin:
    """Fill a transformer on the meta device from any source of tensors. Raises what `source` raises."""
    shapes = {name: parameter.shape for name, parameter in transformer.named_parameters()}
    _replace_linears(transformer, placement)
    stream = BlockStream(spaced_blocks(transformer, placement.streamed_blocks), placement.device)
    transformer.register_forward_pre_hook(stream.begin_pass)
    for name, tensor in source(shapes):
        module = _store_tensor(transformer, name, tensor, placement)
        if name.endswith(".weight") and stream.includes(module):
            stream.store_weight(module)
    transformer.is_loaded_in_4bit = placement.precision == "nf4"  # which PEFT checks before it inspects a layer
    return transformer.requires_grad_(False).eval()


def _load_tensors(folder: Path, shapes: Mapping[str, torch.Size]) -> Iterator[tuple[str, Tensor]]:
    """Read the tensors from the files of a folder, which must hold these and no others."""
    missing = dict(shapes)
    for shard in _shards(folder):
        for name, tensor in _read_tensors(shard):
            _check_tensor(tensor, name, missing.pop(name, None), shard)
            yield name, tensor
    if missing:
        raise ValueError(
            f"{folder} has no tensor {min(missing)}: expected {len(missing)} more according to its config.json"
        )


def _replace_linears(transformer: ModelMixin, placement: WeightPlacement) -> None:
    modulation = family_of_model(transformer).transformer.modulation
    for name, layer in list(transformer.named_modules()):
        if not isinstance(layer, nn.Linear):
            continue
        is_modulation = modulation is not None and modulation.fullmatch(name) is not None
        if (replacement := _replacement(name, layer, placement, is_modulation=is_modulation)) is not None:
            parent, _, attribute = name.rpartition(".")
            transformer.get_submodule(parent).register_module(attribute, replacement)


def _replacement(
    name: str, layer: nn.Linear, placement: WeightPlacement, *, is_modulation: bool
) -> StoredLinear | None:
    """The layer that replaces `layer`; None if it stays."""
    if placement.modulation_on_host and is_modulation:
        return HostLinear(layer)
    if placement.precision == "int8" and IN_BLOCK.match(name):
        # rounding the inputs of modulation layers would cost much quality and save little time
        kind = Int8Linear if is_modulation else LAYERS[placement.matmul]
        return (kind if kind.fits(layer) else Int8Linear)(layer, dtype=placement.dtype)
    if placement.precision == "nf4" and IN_BLOCK.match(name):
        return Nf4Linear(layer, dtype=placement.dtype)
    return None


def _shards(folder: Path) -> list[Path]:
    """The files of weights: those that an index names, or a single one."""
    index = folder / INDEX
    if not index.is_file():
        return [folder / WEIGHTS]
    return [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]


def _read_tensors(shard: Path) -> Iterator[tuple[str, Tensor]]:
    if not shard.is_file():
        raise FileNotFoundError(f"{shard} is missing: expected the weights of the transformer")
    try:
        with safe_open(shard, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (it is no mapping and has no __iter__)
                yield name, file.get_tensor(name)
    except SafetensorError as error:
        raise ValueError(f"{shard} is damaged ({error}): expected an undamaged safetensors file") from error


def _check_tensor(tensor: Tensor, name: str, expected: torch.Size | None, shard: Path) -> None:
    if expected is None:
        raise ValueError(f"{shard} has the tensor {name}, unknown or a duplicate: expected those of its config.json")
    if tensor.shape != expected:
        raise ValueError(f"{shard} has {name} of shape {list(tensor.shape)}: expected {list(expected)}")
    if not is_sample_finite(tensor):
        raise ValueError(f"{shard} has NaN or infinity in {name}: expected finite weights")


def _store_tensor(transformer: ModelMixin, name: str, tensor: Tensor, placement: WeightPlacement) -> nn.Module:
    """Store a tensor in its module, which is returned."""
    parent, _, attribute = name.rpartition(".")
    module = transformer.get_submodule(parent)
    if attribute == "weight" and isinstance(module, StoredLinear):
        module.store_weight(tensor, device=placement.device, dtype=placement.dtype)
    else:
        stored = tensor.to(placement.device, placement.dtype)
        module.register_parameter(attribute, nn.Parameter(stored, requires_grad=False))
    return module
