"""Group the tensors of a file by layer, with the kind of each from the suffix of its key. Knows no model."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

MATRIX = 2  # dimensions
# The suffix of a key, after the layer and a dot -> the kind of the tensor.
KEY_KINDS = {
    **dict.fromkeys(("lora_A.weight", "lora_A.default.weight", "lora_down.weight", "lora.down.weight"), "lora_down"),
    **dict.fromkeys(("lora_linear_layer.down.weight", "down.weight"), "lora_down"),
    **dict.fromkeys(("lora_B.weight", "lora_B.default.weight", "lora_up.weight", "lora.up.weight"), "lora_up"),
    **dict.fromkeys(("lora_linear_layer.up.weight", "up.weight"), "lora_up"),
    "alpha": "alpha",
    **{f"hada_{part}": f"hada_{part}" for part in ("w1_a", "w1_b", "w2_a", "w2_b")},
    **{f"lokr_{part}": f"lokr_{part}" for part in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b")},
    **dict.fromkeys(("lora_mid.weight", "hada_t1", "hada_t2", "lokr_t1", "lokr_t2"), "convolution"),
    **dict.fromkeys(("dora_scale", "lora_magnitude_vector", "lora_magnitude_vector.weight"), "magnitude"),
    **dict.fromkeys(("lora_magnitude_vector.default.weight", "magnitude"), "magnitude"),
    **dict.fromkeys(("diff", "diff_b", "lora_A.bias", "lora_B.bias", "lora_down.bias", "lora_up.bias"), "addition"),
}
KEY = re.compile(rf"(?P<layer>.+?)\.(?P<suffix>{'|'.join(map(re.escape, KEY_KINDS))})")  # the shortest layer


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
    additions: tuple[KeyedTensor, ...]  # biases and full differences: not part of a LoRA, and often 0

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of its tensors."""
        return tuple(each.key for each in (*self.tensors.values(), *self.additions))

    @property
    def is_zero(self) -> bool:
        """Whether it changes nothing because all of it is 0: ComfyUI saves such layers for what was not trained."""
        factors = [*self.additions, *(each for kind, each in self.tensors.items() if kind != "alpha")]
        return "magnitude" not in self.tensors and not any(each.tensor.any() for each in factors)

    def matrix(self, kind: str) -> Tensor:
        """The tensor of one kind, in fp32; raises ValueError if it is missing or not a matrix."""
        if kind not in self.tensors:
            raise ValueError(f"is incomplete: it has {self.keys[0]} without the {kind} of that layer")
        found = self.tensors[kind]
        if found.tensor.ndim != MATRIX:
            size = "x".join(map(str, found.tensor.shape)) or "a single number"
            raise ValueError(f"has {found.key} of shape {size}: expected a matrix")
        return found.tensor.float()

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
    named: dict[str, dict[str, list[KeyedTensor]]] = {}
    unknown = []
    for key, tensor in tensors.items():
        if match := KEY.fullmatch(key):
            kind = KEY_KINDS[match["suffix"]]
            named.setdefault(match["layer"], {}).setdefault(kind, []).append(KeyedTensor(key, tensor))
        else:
            unknown.append(key)
    return FileLayers(tuple(_layer(name, by_kind) for name, by_kind in named.items()), tuple(unknown))


def _layer(name: str, by_kind: dict[str, list[KeyedTensor]]) -> FileLayer:
    additions = by_kind.pop("addition", [])
    for first, *others in by_kind.values():
        if others:
            raise ValueError(f"has both {first.key} and {others[0].key}: expected only one of them")
    return FileLayer(name, {kind: found[0] for kind, found in by_kind.items()}, tuple(additions))
