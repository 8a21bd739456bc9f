"""Group the tensors of a file by layer, with the kind of each from the suffix of its key. Knows no model."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

MATRIX = 2  # dimensions
ADAPTER = r"(?:\.(?!(?:weight|bias)(?:\.|$))[\w-]+)?"  # PEFT's name of an adapter, which has no dot; often `default`
# The suffix of a key, after the layer and a dot, by the kind of the tensor.
KEY_KINDS = {
    "lora_down": rf"lora_A{ADAPTER}(?:\.weight)?|(?:lora_down|lora\.down|lora_linear_layer\.down|down)\.weight",
    "lora_up": rf"lora_B{ADAPTER}(?:\.weight)?|(?:lora_up|lora\.up|lora_linear_layer\.up|up)\.weight",
    "alpha": r"alpha",
    **{f"hada_{part}": rf"hada_{part}{ADAPTER}" for part in ("w1_a", "w1_b", "w2_a", "w2_b")},
    **{f"lokr_{part}": rf"lokr_{part}{ADAPTER}" for part in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b")},
    **{f"glora_{part}": rf"{part}\.weight" for part in ("a1", "a2", "b1", "b2")},
    "magnitude": rf"dora_scale|lora_magnitude_vector{ADAPTER}(?:\.weight)?|magnitude",
    "convolution": r"lora_mid\.weight|bm\.weight|(?:hada|lokr)_t[12]",
    "difference": r"diff|w_norm",  # of ComfyUI's saver; of LyCORIS' norms
    "bias_difference": r"diff_b|b_norm",
    "bias_down": rf"(?:lora_A{ADAPTER}|lora_down)\.bias",
    "bias_up": rf"(?:lora_B{ADAPTER}|lora_up)\.bias",
}
KEY = re.compile(  # the shortest layer
    rf"(?P<layer>.+?)\.(?:{'|'.join(f'(?P<{kind}>{suffix})' for kind, suffix in KEY_KINDS.items())})"
)
OF_BIAS = frozenset({"bias_difference", "bias_down", "bias_up"})


@dataclass(frozen=True, slots=True)
class KeyedTensor:
    """A tensor of a file and its key there."""

    key: str
    tensor: Tensor


@dataclass(frozen=True, slots=True)
class FileLayer:
    """The tensors of one layer in a file, with the file's own name for the layer."""

    name: str
    tensors: Mapping[str, KeyedTensor]  # by kind

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of its tensors."""
        return tuple(each.key for each in self.tensors.values())

    @property
    def is_zero(self) -> bool:
        """Whether it changes nothing because all of it is 0: ComfyUI saves such layers for what was not trained."""
        factors = [each for kind, each in self.tensors.items() if kind != "alpha"]
        return "magnitude" not in self.tensors and not any(each.tensor.any() for each in factors)

    @property
    def has_only_differences(self) -> bool:
        """Whether it has a difference of the weights or of the bias, and no decomposition, as layers of norms have."""
        return self.tensors.keys() <= {"difference", "bias_difference"}

    def changed_by(self, kind: str) -> bool:
        """Whether there is a tensor of this kind that is not all 0."""
        return kind in self.tensors and bool(self.tensors[kind].tensor.any())

    def matrix(self, kind: str) -> Tensor:
        """The tensor of one kind, in fp32; that of a 1x1 convolution is a matrix too. Raises ValueError if it is
        missing or not a matrix."""
        if kind not in self.tensors:
            raise ValueError(f"is incomplete: it has {self.keys[0]} without the {kind} of that layer")
        found = self.tensors[kind]
        tensor = found.tensor.flatten(1) if _is_pointwise(found.tensor) else found.tensor
        if tensor.ndim != MATRIX:
            raise ValueError(f"has {found.key} of shape {_size(tensor)}: expected a matrix")
        return tensor.float()

    def vector(self, kind: str) -> Tensor:
        """The tensor of one kind as a vector, in fp32; raises ValueError if it is a matrix."""
        found = self.tensors[kind]
        if found.tensor.numel() != max(found.tensor.shape, default=1):
            raise ValueError(f"has {found.key} of shape {_size(found.tensor)}: expected a vector")
        return found.tensor.flatten().float()

    def scaling(self, rank: int) -> float:
        """alpha / rank, or 1 if the file has no alpha; raises ValueError unless alpha is one finite number."""
        if "alpha" not in self.tensors:
            return 1.0
        alpha = self.tensors["alpha"]
        if alpha.tensor.numel() != 1 or not math.isfinite(alpha.tensor.item()):
            raise ValueError(f"has {alpha.key}, which is not a valid alpha: expected one finite number")
        return float(alpha.tensor.item()) / rank


@dataclass(frozen=True, slots=True)
class FileLayers:
    """The tensors of a file, by layer."""

    layers: tuple[FileLayer, ...]
    unknown_keys: tuple[str, ...]  # keys without a known suffix


def group_by_layer(tensors: Mapping[str, Tensor]) -> FileLayers:
    """Group the tensors of a file by layer. Raises ValueError if a layer has two tensors of one kind."""
    named: dict[str, dict[str, KeyedTensor]] = {}
    unknown = []
    for key, tensor in tensors.items():
        match = KEY.fullmatch(key)
        if match is None or match.lastgroup is None:
            unknown.append(key)
            continue
        found = KeyedTensor(key, tensor)
        first = named.setdefault(match["layer"], {}).setdefault(match.lastgroup, found)
        if first is not found:
            raise ValueError(f"has both {first.key} and {key}: expected only one of them")
    return FileLayers(tuple(FileLayer(name, by_kind) for name, by_kind in named.items()), tuple(unknown))


def _is_pointwise(tensor: Tensor) -> bool:
    return tensor.ndim > MATRIX and all(size == 1 for size in tensor.shape[MATRIX:])


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a single number"
