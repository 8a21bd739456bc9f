"""How large a FLUX transformer is, and each of its blocks. From numbers to numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lora.engine.options import streamed_block_indices

TIME_CHANNELS = 256
# Of a block, in squares of its width: the weights of linear layers that see tokens, and of those that modulate.
DOUBLE, SINGLE = 8 + 2 * (4 + 4), 3 + 4 + 5
DOUBLE_MODULATION, SINGLE_MODULATION = 2 * 6, 3
SLOTS = 2  # of blocks that stream


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
        """From a transformer's configuration, as in its config.json."""
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
        """Outputs of all modulation layers in the blocks, each of which has `width` inputs."""
        return self.width * (self.num_layers * DOUBLE_MODULATION + self.num_single_layers * SINGLE_MODULATION)

    @property
    def block_rows(self) -> int:
        """Outputs of all other linear layers in the blocks."""
        double, single = 8 + 2 * (4 + 1), 3 + 4 + 1
        return self.width * (self.num_layers * double + self.num_single_layers * single)

    @property
    def block_weights(self) -> int:
        """Weights of those layers."""
        return self.width**2 * (self.num_layers * DOUBLE + self.num_single_layers * SINGLE)

    @property
    def modulation_layers(self) -> int:
        """How many modulation layers the blocks hold."""
        return self.num_layers * 2 + self.num_single_layers

    @property
    def block_layers(self) -> int:
        """How many other linear layers they hold."""
        return self.num_layers * 12 + self.num_single_layers * 5

    @property
    def blocks(self) -> int:
        """How many there are."""
        return self.num_layers + self.num_single_layers

    def weights_of_block(self, place: int, *, with_modulation: bool) -> int:
        """Of all linear layers in it."""
        plain, modulation = (DOUBLE, DOUBLE_MODULATION) if place < self.num_layers else (SINGLE, SINGLE_MODULATION)
        return self.width**2 * (plain + (modulation if with_modulation else 0))

    def offloaded_weights(self, streamed_blocks: int, *, with_modulation: bool) -> int:
        """How many weights of blocks that stream are not on the device (lora/engine/streaming.py), where two slots have
        room for any block: if few stream, fewer than none."""
        places = streamed_block_indices(streamed_blocks, of=self.blocks)
        streamed = [self.weights_of_block(place, with_modulation=with_modulation) for place in places]
        return sum(streamed) - SLOTS * max(streamed, default=0)

    @property
    def outer_parameters(self) -> int:
        """All parameters outside the blocks: embedders, norm_out and proj_out."""
        numbers = 2 if self.guidance_embeds else 1  # the timestep, and the guidance
        inputs = self.in_channels + self.joint_attention_dim + numbers * TIME_CHANNELS + self.pooled_dim
        squares, biases = numbers + 1 + 2, 2 + 2 * (numbers + 1) + 2
        proj_out = self.in_channels * (self.width + 1)
        return self.width * (inputs + squares * self.width + biases) + proj_out
