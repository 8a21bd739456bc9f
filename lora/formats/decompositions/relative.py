"""Weight deltas that depend on the weights of the base model: DoRA and GLoRA. Knows no layout."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lora.formats.decompositions.factors import Dense
from lora.formats.shapes import Shape
from lora.formats.weight_deltas import BaseWeights, LayerMapping, LowRankFactors, WeightDelta

EPS = torch.finfo(torch.float32).eps  # added to each norm, as in LyCORIS and ComfyUI


class DependsOnBase:
    """The part of a weight delta that has no meaning without the base."""

    __slots__ = ()
    because: ClassVar[str]  # of what it depends on the base

    def matrix(self, device: torch.device) -> Tensor:  # noqa: ARG002 - of the protocol
        """Raises ValueError: call `resolved` first."""
        raise ValueError(self.refusal)

    def low_rank(self) -> LowRankFactors:
        """Raises ValueError: call `resolved` first."""
        raise ValueError(self.refusal)

    @property
    def refusal(self) -> str:
        """Why it cannot be used without the base; the end of a sentence."""
        why = f"{self.because} depends on the base's weights"
        return f"is a {type(self).__name__}, whose {why}: expected a plain LoRA, a LoHa or a LoKr"


@dataclass(frozen=True, slots=True)
class LayerRows:
    """Rows of the weights of a layer in a file, in the file's order; that layer may be several of the model's."""

    mapping: LayerMapping
    ranges: tuple[range, ...]  # top rows first

    @property
    def count(self) -> int:
        """The number of rows."""
        return sum(map(len, self.ranges))

    def whole(self, base: BaseWeights) -> Tensor:
        """All rows of the base's weights for the layer of the file [all rows, in], fp32."""
        weights = torch.cat([base(layer) for layer in self.mapping.layers])
        return weights.roll(len(weights) // 2, 0) if self.mapping.is_swapped else weights

    def of(self, rows: Tensor) -> Tensor:
        """These rows of a tensor that has all rows."""
        return torch.cat([rows[each.start : each.stop] for each in self.ranges])


@dataclass(frozen=True, slots=True)
class DoRA(DependsOnBase):
    """A DoRA (arXiv 2402.09353): the rows or columns of base + delta are brought to given lengths.

    At a scale s the weights are base + s (DoRA - base), as in ComfyUI: linear in s, 0 is the base and 1 is what was
    trained. PEFT's `set_scale` instead scales only the delta within, so that 0 is not the base.
    """

    because: ClassVar[str] = "dora_scale or lora_magnitude_vector"
    delta: WeightDelta  # of all rows of the layer in the file
    magnitude: Tensor  # fp32 [all rows, 1]: a length for each row, or [1, in]: for each column
    of_file: LayerRows

    @property
    def shape(self) -> Shape:
        """The shape of the layer that it applies to."""
        return Shape(self.delta.shape.inputs, self.of_file.count)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Those of the delta, and the lengths."""
        return *self.delta.tensors, self.magnitude

    @property
    def is_zero(self) -> bool:
        """False: the lengths alone may change the weights."""
        return False

    def rows(self, *ranges: range) -> "DoRA":
        """These rows of a delta that has all its rows. The length of a column is still that of all rows."""
        return DoRA(self.delta, self.magnitude, LayerRows(self.of_file.mapping, ranges))

    def resolved(self, base: BaseWeights) -> Dense:
        """magnitude (W + delta) / |W + delta| - W."""
        weights = self.of_file.whole(base)
        merged = weights + self.delta.resolved(base).matrix(weights.device)
        lengths = torch.linalg.vector_norm(merged, dim=1 if self.magnitude.shape[1] == 1 else 0, keepdim=True)
        merged.mul_(self.magnitude.to(weights.device) / (lengths + EPS))
        return Dense(self.of_file.of(merged.sub_(weights)))


@dataclass(frozen=True, slots=True)
class GLoRA(DependsOnBase):
    """A GLoRA as in LyCORIS (lycoris/modules/glora.py): W a1 a2 + b1 b2, where W are the base's weights."""

    because: ClassVar[str] = "product of the input"
    a1: Tensor  # [in, rank] fp32, with alpha / rank folded in
    a2: Tensor  # [rank, in] fp32
    b: LowRankFactors  # b2 and b1, with alpha / rank folded in; of all rows of the layer in the file
    of_file: LayerRows

    @property
    def shape(self) -> Shape:
        """The shape of the layer that it applies to."""
        return Shape(self.b.shape.inputs, self.of_file.count)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All four matrices."""
        return self.a1, self.a2, *self.b.tensors

    @property
    def is_zero(self) -> bool:
        """Whether both products are 0."""
        return self.b.is_zero and not (self.a1.any() and self.a2.any())

    def rows(self, *ranges: range) -> "GLoRA":
        """These rows of a delta that has all its rows."""
        return GLoRA(self.a1, self.a2, self.b, LayerRows(self.of_file.mapping, ranges))

    def resolved(self, base: BaseWeights) -> LowRankFactors:
        """[W a1, b1] [a2; b2], of twice the rank."""
        weights = self.of_file.of(self.of_file.whole(base))
        up = torch.cat([weights @ self.a1.to(weights.device), self.of_file.of(self.b.up).to(weights.device)], dim=1)
        return LowRankFactors(torch.cat([self.a2, self.b.down]).to(weights.device), up)
