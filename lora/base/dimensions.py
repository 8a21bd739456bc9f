"""The sizes of a transformer and of its blocks, whatever its family. Computes with numbers only; loads nothing."""

from collections.abc import Mapping
from dataclasses import dataclass

from lora.engine.options import Recomputed, spaced_block_indices

SLOTS = 2  # buffers on the device, one block each, when blocks stream


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockKind:
    """The blocks of one kind. All numbers but `count` are those of one block."""

    count: int
    weights: int  # of its linear layers, without modulation layers and biases
    rows: int  # output features of these layers
    layers: int  # number of these layers
    modulation_weights: int  # of its own modulation layers, without biases; 0 if all blocks share them
    modulation_rows: int
    modulation_layers: int
    # The activations that autograd keeps with a LoRA on each of these layers, in units of batch x tokens x width values
    kept: Mapping[Recomputed, int]
    kept_under_autocast: int  # if nothing is recomputed, under autocast


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimensions:
    """The size of a transformer of double blocks, which keep text and image apart, and single blocks after them."""

    width: int
    double: BlockKind
    single: BlockKind
    has_biases: bool  # in the layers of the blocks
    activation: str  # the function in the feed-forwards, as the field writes it
    widest: int  # output features of the widest layer for each token, in units of the width
    largest: int  # weights of the largest layer in a block
    outer_parameters: int  # all parameters outside the blocks

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return self.double.count + self.single.count

    @property
    def block_weights(self) -> int:
        """Weights of all linear layers in the blocks other than modulation layers."""
        return sum(kind.count * kind.weights for kind in self._kinds)

    @property
    def block_rows(self) -> int:
        """Output features of these layers."""
        return sum(kind.count * kind.rows for kind in self._kinds)

    @property
    def block_layers(self) -> int:
        """Number of these layers."""
        return sum(kind.count * kind.layers for kind in self._kinds)

    @property
    def modulation_weights(self) -> int:
        """Weights of all modulation layers in the blocks; 0 if the blocks share their modulation."""
        return sum(kind.count * kind.modulation_weights for kind in self._kinds)

    @property
    def modulation_rows(self) -> int:
        """Output features of these layers."""
        return sum(kind.count * kind.modulation_rows for kind in self._kinds)

    @property
    def modulation_layers(self) -> int:
        """Number of these layers."""
        return sum(kind.count * kind.modulation_layers for kind in self._kinds)

    @property
    def block_biases(self) -> int:
        """Numbers in the biases of all layers in the blocks."""
        return self.block_rows + self.modulation_rows if self.has_biases else 0

    def modulation_layer_weights(self) -> list[int]:
        """The weights of each modulation layer in the blocks, which has an allocation of its own on the host."""
        return [
            kind.modulation_weights // kind.modulation_layers
            for kind in self._kinds
            for _ in range(kind.count * kind.modulation_layers)
        ]

    def split_blocks(self, count: int) -> tuple[int, int]:
        """How many of `count` evenly spaced blocks are double blocks, and how many are single."""
        doubles = sum(index < self.double.count for index in spaced_block_indices(count, of=self.blocks))
        return doubles, count - doubles

    def weights_of_block(self, index: int, *, with_modulation: bool) -> int:
        """Weights of the linear layers in one block."""
        kind = self.double if index < self.double.count else self.single
        return kind.weights + (kind.modulation_weights if with_modulation else 0)

    def offloaded_weights(self, streamed_blocks: int, *, with_modulation: bool) -> int:
        """Weights of streamed blocks that are not on the device (lora/engine/streaming.py).

        Each of the two buffers on the device has the size of the largest block, so the number is negative if few blocks
        stream.
        """
        indices = spaced_block_indices(streamed_blocks, of=self.blocks)
        streamed = [self.weights_of_block(index, with_modulation=with_modulation) for index in indices]
        return sum(streamed) - SLOTS * max(streamed, default=0)

    @property
    def _kinds(self) -> tuple[BlockKind, BlockKind]:
        return self.double, self.single
