"""What every layout is brought into: by layer, the two matrices whose product is the change. Knows no layout."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from lora.flux.shapes import Shape

Model = Literal["transformer", "clip", "t5"]


@dataclass(frozen=True, slots=True)
class Pair:
    """The change of one layer's weights [out, in] at strength 1: up @ down."""

    down: Tensor  # A [rank, in] fp32
    up: Tensor  # B [out, rank] fp32, with alpha / rank folded in

    @property
    def shape(self) -> Shape:
        """That of the layer it changes."""
        return Shape(inputs=self.down.shape[1], outputs=len(self.up))

    @property
    def numbers(self) -> int:
        """How many both matrices hold."""
        return self.down.numel() + self.up.numel()


@dataclass(frozen=True, slots=True)
class FluxLora:
    """A LoRA for FLUX.1; layers have the names of diffusers and transformers, without a prefix."""

    transformer: Mapping[str, Pair]
    clip: Mapping[str, Pair]  # such as text_model.encoder.layers.0.self_attn.q_proj
    t5: Mapping[str, Pair]  # such as encoder.block.0.layer.0.SelfAttention.q


@dataclass(frozen=True, slots=True)
class Place:
    """Where in FLUX.1 a layer of a file is."""

    model: Model
    layers: tuple[str, ...]  # that it is made of, top rows first
    is_swapped: bool = False  # the upper half of its rows is the lower half of the layer's
