"""The record of what a family of models calls its layers: in diffusers, in the original code and in LoRA files. Knows
no family."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lora.formats.weight_deltas import LayerMapping, VectorName

LAYER = re.compile(r"(?P<blocks>\w+)\.(?P<number>\d+)\.(?P<part>.+)")


@dataclass(frozen=True, slots=True)
class Ratio:
    """The shape of a layer's weights, in widths of the model's hidden states."""

    outputs: int
    inputs: int


SQUARE = Ratio(1, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockNames:
    """The layers in each block of one kind."""

    diffusers: str  # the name of the list of blocks, such as transformer_blocks
    original: str  # the same in the original code, such as double_blocks
    # Each linear layer of the original block -> those that diffusers has instead of it, top rows first
    layers: Mapping[str, tuple[str, ...]]
    norms: Mapping[str, str]  # each norm with a scale of the original block -> the same in diffusers
    ratios: Mapping[str, Ratio]  # of the layers of diffusers that are not square

    @property
    def parts(self) -> tuple[str, ...]:
        """All linear layers of a block of diffusers."""
        return tuple(part for parts in self.layers.values() for part in parts)


@dataclass(frozen=True, slots=True)
class BlockLayer:
    """A layer in a block of diffusers."""

    blocks: BlockNames
    number: int  # of the block
    part: str  # such as attn.to_q

    @property
    def ratio(self) -> Ratio:
        """The shape of its weights."""
        return self.blocks.ratios.get(self.part, SQUARE)

    @property
    def original(self) -> str:
        """The layer of the original block that it is, or is a part of: img_attn.qkv."""
        return next(layer for layer, parts in self.blocks.layers.items() if self.part in parts)

    @property
    def siblings(self) -> tuple[str, ...]:
        """Itself and the other layers of the same original layer, top rows first."""
        return self.blocks.layers[self.original]

    @property
    def original_name(self) -> str:
        """Its name in the original model, with a number if it is a part: double_blocks.0.img_attn.qkv.1 for to_k."""
        name = f"{self.blocks.original}.{self.number}.{self.original}"
        return f"{name}.{self.siblings.index(self.part)}" if len(self.siblings) > 1 else name


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedModel:
    """What a LoRA shows of the model that it was made for."""

    name: str  # as in "made for FLUX.1"
    width: int  # of the hidden states
    blocks: Mapping[str, int]  # number of blocks by BlockNames.diffusers
    inputs: Mapping[str, int]  # input features of layers outside the blocks, where models of one width differ


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerNames:
    """The names that all layouts have for the layers of a family, and what tells its LoRAs from those of others."""

    name: str  # of the family, for messages
    series: str  # of all models with these layers, for messages
    blocks: tuple[BlockNames, ...]
    outside: Mapping[str, str]  # each linear layer outside the blocks, but for the final modulation -> in diffusers
    # Further names of layers of the transformer, without prefix
    other_names: tuple[Callable[[str], LayerMapping | None], ...]
    # Layers and norms of the text encoders that LoRAs may change, by their names with prefix
    text_layers: tuple[Callable[[str], LayerMapping | None], ...]
    text_norms: tuple[Callable[[str], VectorName | None], ...]
    published: tuple[PublishedModel, ...]  # the most usual model of each width first
    # Models outside the family: input features of the layer that the latents enter, and of the blocks -> the model
    latent_channels: Mapping[int, str]
    widths: Mapping[int, str]

    def block_layer(self, name: str) -> BlockLayer | None:
        """The layer with this name in diffusers, without prefix; None if no block has it."""
        match = LAYER.fullmatch(name)
        for blocks in self.blocks:
            if match and match["blocks"] == blocks.diffusers and match["part"] in blocks.parts:
                return BlockLayer(blocks, int(match["number"]), match["part"])
        return None

    def original_name(self, name: str) -> str:
        """The name in the original model of a layer of diffusers: all families have those of common layers. The final
        modulation keeps its name."""
        if layer := self.block_layer(name):
            return layer.original_name
        return next((original for original, diffusers in self.outside.items() if diffusers == name), name)
