"""The matrices by which the blocks of a base multiply every token, and its attention. Measures nothing."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from bench.random_flux import Sizes
from lora.formats.layer_names.record import BlockNames
from lora.formats.shapes import Shape

Tokens = Literal["text", "image", "both"]


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of a block, fused with those that have the same input, as in the original code."""

    tokens: Tokens  # that it multiplies
    inputs: int
    outputs: int


@dataclass(frozen=True, slots=True)
class Blocks:
    """Blocks of one kind."""

    count: int
    layers: tuple[Layer, ...]


@dataclass(frozen=True, slots=True)
class BlockShapes:
    """What a step of a base multiplies in its blocks, each of which has one attention."""

    blocks: tuple[Blocks, ...]
    heads: int
    head_width: int

    @property
    def products(self) -> tuple[tuple[int, int], ...]:
        """The different shapes of matrices, inputs and outputs."""
        layers = (layer for each in self.blocks for layer in each.layers)
        return tuple(dict.fromkeys((layer.inputs, layer.outputs) for layer in layers))


def block_shapes(sizes: Sizes) -> BlockShapes:
    """The shapes of a base."""
    family, layers = sizes.family, sizes.layers
    blocks = tuple(
        Blocks(_count(layers, kind), tuple(_layers(layers, kind, family.transformer.per_token)))
        for kind in family.layer_names.blocks
    )
    return BlockShapes(blocks, sizes.transformer["num_attention_heads"], sizes.transformer["attention_head_dim"])


def _count(layers: Iterable[str], kind: BlockNames) -> int:
    return len({name.split(".")[1] for name in layers if name.startswith(f"{kind.diffusers}.")})


def _layers(layers: Mapping[str, Shape], kind: BlockNames, per_token: re.Pattern[str]) -> Iterator[Layer]:
    for original, parts in kind.layers.items():
        names = [f"{kind.diffusers}.0.{part}" for part in parts]
        if all(map(per_token.fullmatch, names)):
            shapes = [layers[name] for name in names]
            yield Layer(_tokens(original), shapes[0].inputs, sum(shape.outputs for shape in shapes))


def _tokens(original: str) -> Tokens:
    return "image" if original.startswith("img_") else "text" if original.startswith("txt_") else "both"
