"""From the tensors of a file to its layers, each with the parts that its name ends in. Knows no model."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

MATRIX = 2  # dimensions
# What a key ends in, after the layer and a dot -> what that is.
PARTS = {
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
KEY = re.compile(rf"(?P<layer>.+?)\.(?P<part>{'|'.join(map(re.escape, PARTS))})")  # the shortest layer that fits


@dataclass(frozen=True, slots=True)
class Part:
    """A tensor of a file, and its name there."""

    key: str
    tensor: Tensor


@dataclass(frozen=True, slots=True)
class Layer:
    """What a file holds of one layer, which has the file's own name for it."""

    name: str
    parts: Mapping[str, Part]
    additions: tuple[Part, ...]  # biases and whole differences: no LoRA, and often 0

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of its tensors."""
        return tuple(part.key for part in (*self.parts.values(), *self.additions))

    @property
    def is_zero(self) -> bool:
        """Whether it changes nothing, as all of it is 0: ComfyUI saves such for what was not trained."""
        parts = [*self.additions, *(part for name, part in self.parts.items() if name != "alpha")]
        return "magnitude" not in self.parts and not any(part.tensor.any() for part in parts)

    def matrix(self, part: str) -> Tensor:
        """One part in fp32; raises ValueError if it is missing or no matrix."""
        if part not in self.parts:
            raise ValueError(f"is incomplete: it holds {self.keys[0]} without the {part} of that layer")
        found = self.parts[part]
        if found.tensor.ndim != MATRIX:
            size = "x".join(map(str, found.tensor.shape)) or "a single number"
            raise ValueError(f"holds {found.key} of the shape {size}: expected a matrix, as a linear layer has")
        return found.tensor.float()

    def strength(self, rank: int) -> float:
        """alpha / rank, and 1 where the file holds no alpha; raises ValueError unless it is one finite number."""
        if "alpha" not in self.parts:
            return 1.0
        alpha = self.parts["alpha"]
        if alpha.tensor.numel() != 1 or not math.isfinite(alpha.tensor.item()):
            raise ValueError(f"holds {alpha.key} that is no alpha: expected one finite number")
        return float(alpha.tensor.item()) / rank


@dataclass(frozen=True, slots=True)
class Sorted:
    """All that a file holds."""

    layers: tuple[Layer, ...]
    foreign: tuple[str, ...]  # names that end in nothing that a LoRA is made of


def group_by_layer(tensors: Mapping[str, Tensor]) -> Sorted:
    """Every tensor is in one of the two; raises ValueError if two are the same part of one layer."""
    named: dict[str, dict[str, list[Part]]] = {}
    foreign = []
    for key, tensor in tensors.items():
        if match := KEY.fullmatch(key):
            named.setdefault(match["layer"], {}).setdefault(PARTS[match["part"]], []).append(Part(key, tensor))
        else:
            foreign.append(key)
    return Sorted(tuple(_layer(name, parts) for name, parts in named.items()), tuple(foreign))


def _layer(name: str, parts: dict[str, list[Part]]) -> Layer:
    additions = parts.pop("addition", [])
    for first, *others in parts.values():
        if others:
            raise ValueError(f"holds both {first.key} and {others[0].key}: expected one of them")
    return Layer(name, {part: found[0] for part, found in parts.items()}, tuple(additions))
