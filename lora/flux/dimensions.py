"""The sizes of a FLUX transformer and of its blocks, computed from its config. Loads nothing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lora.engine.options import spaced_block_indices

TIME_CHANNELS = 256  # of the sinusoidal embeddings of timestep and guidance (CombinedTimestepTextProjEmbeddings)
# Weights of a block in units of width squared: linear layers that process tokens, and modulation layers.
# FluxTransformerBlock of diffusers: q, k, v and output of attention for image and text 8; two feed-forwards, to 4 times
# the width and back. FluxSingleTransformerBlock: q, k and v 3; proj_mlp 4; proj_out, from attention and MLP, 5.
# Modulation: norm1 and norm1_context 6 each (AdaLayerNormZero); norm 3 (AdaLayerNormZeroSingle).
DOUBLE, SINGLE = 8 + 2 * (4 + 4), 3 + 4 + 5
DOUBLE_MODULATION, SINGLE_MODULATION = 2 * 6, 3
SLOTS = 2  # buffers on the device, one block each, when blocks stream


@dataclass(frozen=True, slots=True)
class Dimensions:
    """The size of a FLUX transformer."""

    num_layers: int
    num_single_layers: int
    width: int
    joint_attention_dim: int
    pooled_dim: int
    in_channels: int
    guidance_embeds: bool

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Dimensions":
        """Read the sizes from a transformer's configuration, as in its config.json."""
        return cls(
            config["num_layers"],
            config["num_single_layers"],
            config["num_attention_heads"] * config["attention_head_dim"],
            config["joint_attention_dim"],
            config["pooled_projection_dim"],
            config["in_channels"],
            config["guidance_embeds"],
        )

    @property
    def modulation_rows(self) -> int:
        """Output features of all modulation layers in the blocks, each with `width` inputs."""
        return self.width * (self.num_layers * DOUBLE_MODULATION + self.num_single_layers * SINGLE_MODULATION)

    @property
    def block_rows(self) -> int:
        """Output features of all other linear layers in the blocks."""
        # attention as above; outputs of feed-forwards 4 and 1; proj_mlp 4, proj_out 1
        double, single = 8 + 2 * (4 + 1), 3 + 4 + 1
        return self.width * (self.num_layers * double + self.num_single_layers * single)

    @property
    def block_weights(self) -> int:
        """Weights of all linear layers in the blocks other than modulation layers."""
        return self.width**2 * (self.num_layers * DOUBLE + self.num_single_layers * SINGLE)

    @property
    def modulation_layers(self) -> int:
        """Number of modulation layers in the blocks."""
        return self.num_layers * 2 + self.num_single_layers

    @property
    def block_layers(self) -> int:
        """Number of other linear layers in the blocks."""
        # double: 8 of attention and 2 of each feed-forward; single: to_q, to_k, to_v, proj_mlp, proj_out
        return self.num_layers * 12 + self.num_single_layers * 5

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return self.num_layers + self.num_single_layers

    def split_blocks(self, count: int) -> tuple[int, int]:
        """How many of `count` evenly spaced blocks are double blocks, and how many are single."""
        doubles = sum(index < self.num_layers for index in spaced_block_indices(count, of=self.blocks))
        return doubles, count - doubles

    def weights_of_block(self, index: int, *, with_modulation: bool) -> int:
        """Weights of the linear layers in one block."""
        linear, modulation = (DOUBLE, DOUBLE_MODULATION) if index < self.num_layers else (SINGLE, SINGLE_MODULATION)
        return self.width**2 * (linear + (modulation if with_modulation else 0))

    def offloaded_weights(self, streamed_blocks: int, *, with_modulation: bool) -> int:
        """Weights of streamed blocks that are not on the device (lora/engine/streaming.py).

        Each of the two buffers on the device has the size of the largest block, so the number is negative if few blocks
        stream.
        """
        indices = spaced_block_indices(streamed_blocks, of=self.blocks)
        streamed = [self.weights_of_block(index, with_modulation=with_modulation) for index in indices]
        return sum(streamed) - SLOTS * max(streamed, default=0)

    @property
    def outer_parameters(self) -> int:
        """All parameters outside the blocks: embedders, norm_out and proj_out."""
        numbers = 2 if self.guidance_embeds else 1  # the timestep, and the guidance
        inputs = self.in_channels + self.joint_attention_dim + numbers * TIME_CHANNELS + self.pooled_dim
        # second layers of the embedders of these numbers and of the pooled text, and norm_out, which is twice as wide;
        # biases of x_embedder and context_embedder, of both layers of those embedders, and of norm_out
        squares, biases = numbers + 1 + 2, 2 + 2 * (numbers + 1) + 2
        proj_out = self.in_channels * (self.width + 1)
        return self.width * (inputs + squares * self.width + biases) + proj_out
