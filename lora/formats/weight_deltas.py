"""The record that all layouts are converted to: a weight delta per layer. Knows no layout."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from lora.formats.shapes import Shape

Model = Literal["transformer", "clip", "t5"]


class WeightDelta(Protocol):
    """The delta of one layer's weights [out, in], at a LoRA scale of 1. It takes as little memory as its tensors in the
    file, whatever its shape."""

    @property
    def shape(self) -> Shape:
        """The shape of the layer that it applies to."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All its tensors, fp32; if one of them is 0, the delta is 0."""

    def rows(self, *ranges: range) -> "WeightDelta":
        """The delta of a layer that consists of these rows."""

    def matrix(self, device: torch.device) -> Tensor:
        """[out, in] fp32, computed on a device. Call it only for a layer that has this shape, as a small file may claim
        any."""

    def low_rank(self) -> "LowRankFactors":
        """The same delta as two matrices. Raises ValueError with the end of a sentence if their rank would exceed the
        layer's."""


@dataclass(frozen=True, slots=True)
class LowRankFactors:
    """A plain LoRA: up @ down."""

    down: Tensor  # A [rank, in] fp32
    up: Tensor  # B [out, rank] fp32, with alpha / rank folded in

    @property
    def shape(self) -> Shape:
        """The shape of the layer that it applies to."""
        return Shape(inputs=self.down.shape[1], outputs=len(self.up))

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Both matrices."""
        return self.down, self.up

    def rows(self, *ranges: range) -> "LowRankFactors":
        """The delta of these rows [sum of ranges, in]. Drops ranks whose column of `up` is 0 in them, so each block of
        a block-diagonal `up` gets its own rank."""
        up = torch.cat([self.up[each.start : each.stop] for each in ranges])
        used = up.any(dim=0)
        return LowRankFactors(self.down[used], up[:, used])

    def matrix(self, device: torch.device) -> Tensor:
        """[out, in] fp32."""
        return self.up.to(device) @ self.down.to(device)

    def low_rank(self) -> "LowRankFactors":
        """Itself."""
        return self


@dataclass(frozen=True, slots=True)
class FluxLora:
    """The weight deltas of a LoRA for FLUX.1, by the layer names of diffusers and transformers, without a prefix."""

    transformer: Mapping[str, WeightDelta]
    clip: Mapping[str, WeightDelta]  # such as text_model.encoder.layers.0.self_attn.q_proj
    t5: Mapping[str, WeightDelta]  # such as encoder.block.0.layer.0.SelfAttention.q


@dataclass(frozen=True, slots=True)
class LayerMapping:
    """The layers of FLUX.1 that a layer of a file applies to."""

    model: Model
    layers: tuple[str, ...]  # top rows first
    is_swapped: bool = False  # True if the two halves of the rows are in reverse order (final_layer.adaLN_modulation)
