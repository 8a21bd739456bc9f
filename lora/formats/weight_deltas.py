"""What every layout is brought into: by layer, the change of its weights. Knows no layout."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from lora.formats.shapes import Shape

Model = Literal["transformer", "clip", "t5"]


class Change(Protocol):
    """Of one layer's weights [out, in], at strength 1; as small as its file, whatever it comes to."""

    @property
    def shape(self) -> Shape:
        """That of the layer it changes."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All that it holds, fp32; where one is 0, nothing changes."""

    def rows(self, *of: range) -> "Change":
        """The change of a layer that is made of these rows."""

    def matrix(self, device: torch.device) -> Tensor:
        """[out, in] fp32, made on a device: only where a layer has that shape, as a small file may say any."""

    def pair(self) -> "Pair":
        """The same as two matrices; ValueError with the end of a sentence if their rank were more than a layer has."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A plain LoRA: up @ down."""

    down: Tensor  # A [rank, in] fp32
    up: Tensor  # B [out, rank] fp32, with alpha / rank folded in

    @property
    def shape(self) -> Shape:
        """That of the layer it changes."""
        return Shape(inputs=self.down.shape[1], outputs=len(self.up))

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Both."""
        return self.down, self.up

    def rows(self, *of: range) -> "Pair":
        """Only columns of `up` that are not 0 there count: of a block-diagonal `up`, each part has its own rank."""
        up = torch.cat([self.up[each.start : each.stop] for each in of])
        used = up.any(dim=0)
        return Pair(self.down[used], up[:, used])

    def matrix(self, device: torch.device) -> Tensor:
        """[out, in] fp32."""
        return self.up.to(device) @ self.down.to(device)

    def pair(self) -> "Pair":
        """Itself."""
        return self


@dataclass(frozen=True, slots=True)
class FluxLora:
    """A LoRA for FLUX.1; layers have the names of diffusers and transformers, without a prefix."""

    transformer: Mapping[str, Change]
    clip: Mapping[str, Change]  # such as text_model.encoder.layers.0.self_attn.q_proj
    t5: Mapping[str, Change]  # such as encoder.block.0.layer.0.SelfAttention.q


@dataclass(frozen=True, slots=True)
class Place:
    """Where in FLUX.1 a layer of a file is."""

    model: Model
    layers: tuple[str, ...]  # that it is made of, top rows first
    is_swapped: bool = False  # the upper half of its rows is the lower half of the layer's
