"""The record that all layouts are converted to: a weight delta per layer. Knows no layout."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from lora.formats.shapes import Shape

Model = Literal["transformer", "clip", "t5"]
# A layer of the same model -> its weights in the base model [out, in], fp32, on the device that computes.
BaseWeights = Callable[[str], Tensor]


class WeightDelta(Protocol):
    """The delta of one layer's weights [out, in], at a LoRA scale of 1. It takes as little memory as its tensors in the
    file, whatever its shape."""

    @property
    def shape(self) -> Shape:
        """The shape of the layer that it applies to."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All its tensors, fp32."""

    @property
    def is_zero(self) -> bool:
        """Whether it certainly changes nothing."""

    def rows(self, *ranges: range) -> "WeightDelta":
        """The delta of a layer that consists of these rows."""

    def resolved(self, base: BaseWeights) -> "WeightDelta":
        """The same delta without reference to the base: itself, unless it depends on the weights of the base."""

    def matrix(self, device: torch.device) -> Tensor:
        """[out, in] fp32, computed on a device. Call it only for a layer that has this shape, as a small file may claim
        any. Raises ValueError with the end of a sentence if the delta depends on the base."""

    def low_rank(self) -> "LowRankFactors":
        """The same delta as two matrices. Raises ValueError with the end of a sentence if their rank would exceed the
        layer's, or if the delta depends on the base."""


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

    @property
    def is_zero(self) -> bool:
        """Whether one of the matrices is 0."""
        return any_is_zero(self.tensors)

    def rows(self, *ranges: range) -> "LowRankFactors":
        """The delta of these rows [sum of ranges, in]. Drops ranks whose column of `up` is 0 in them, so each block of
        a block-diagonal `up` gets its own rank."""
        up = torch.cat([self.up[each.start : each.stop] for each in ranges])
        used = up.any(dim=0)
        return LowRankFactors(self.down[used], up[:, used])

    def resolved(self, base: BaseWeights) -> "LowRankFactors":  # noqa: ARG002 - of the protocol
        """Itself."""
        return self

    def matrix(self, device: torch.device) -> Tensor:
        """[out, in] fp32."""
        return self.up.to(device) @ self.down.to(device)

    def low_rank(self) -> "LowRankFactors":
        """Itself."""
        return self


@dataclass(frozen=True, slots=True)
class FluxLora:
    """The weight deltas of a LoRA for a FLUX model, by the layer names of diffusers and transformers, without a prefix.

    `clip` and `t5` are empty for a family without these text encoders.
    """

    transformer: Mapping[str, WeightDelta]
    clip: Mapping[str, WeightDelta]  # such as text_model.encoder.layers.0.self_attn.q_proj
    t5: Mapping[str, WeightDelta]  # such as encoder.block.0.layer.0.SelfAttention.q
    vectors: Mapping["VectorName", Tensor]  # deltas of biases and of the scales of norms at a LoRA scale of 1, fp32

    @property
    def changes_text_encoders(self) -> bool:
        """Whether it changes CLIP or T5."""
        return bool(self.clip or self.t5) or any(name.model != "transformer" for name in self.vectors)


@dataclass(frozen=True, slots=True)
class VectorName:
    """A parameter of a model that is a vector."""

    model: Model
    layer: str
    parameter: Literal["bias", "weight"]  # weight: the scale of a norm


@dataclass(frozen=True, slots=True)
class LayerMapping:
    """The layers of a model that a layer of a file applies to."""

    model: Model
    layers: tuple[str, ...]  # top rows first; none for a layer that the model does not use
    is_swapped: bool = False  # True if the two halves of the rows are in reverse order (final_layer.adaLN_modulation)


def any_is_zero(factors: tuple[Tensor, ...]) -> bool:
    """Whether a product of these factors is 0 because one of them is."""
    return not all(factor.any() for factor in factors)
