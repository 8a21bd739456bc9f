"""The size of a FLUX transformer, and what its frozen weights take on the device. From numbers to numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lora.flux.engine.choices import Recomputed, streamed_places
from lora.flux.precision import Precision

FP32, BF16 = 4, 2
INT8, INT8_ROW = 1, 4  # a code for each weight, and a scale in fp32 for each row
# A code for each weight; for each block of 64 a scale in 8 bits, and for 256 of those a scale in fp32 (QLoRA, 2.).
NF4, NF4_SCALES = 0.5, (1 + 4 / 256) / 64
NF4_LAYER = FP32 * (16 + 256 + 1)  # both tables of codes and a mean, of each layer
TIME_CHANNELS = 256
# Of a block, in squares of its width: the weights of linear layers that see tokens, and of those that modulate.
DOUBLE, SINGLE = 8 + 2 * (4 + 4), 3 + 4 + 5
DOUBLE_MODULATION, SINGLE_MODULATION = 2 * 6, 3
SLOTS = 2  # of blocks that stream


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of a FLUX transformer."""

    num_layers: int
    num_single_layers: int
    width: int
    joint_attention_dim: int
    pooled_dim: int
    in_channels: int
    guidance_embeds: bool

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Shape":
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

    @property
    def outer_parameters(self) -> int:
        """All parameters outside the blocks: embedders, norm_out and proj_out."""
        numbers = 2 if self.guidance_embeds else 1  # the timestep, and the guidance
        inputs = self.in_channels + self.joint_attention_dim + numbers * TIME_CHANNELS + self.pooled_dim
        squares, biases = numbers + 1 + 2, 2 + 2 * (numbers + 1) + 2
        proj_out = self.in_channels * (self.width + 1)
        return self.width * (inputs + squares * self.width + biases) + proj_out


@dataclass(frozen=True, slots=True)
class Rung:
    """How a base is held, and what is recomputed of it."""

    precision: Precision
    recomputed: Recomputed
    modulation_on_host: bool
    streamed_blocks: int = 0  # whose weights are on the host

    def streaming(self, blocks: int) -> "Rung":
        """The same with so many blocks streamed."""
        return replace(self, streamed_blocks=blocks)

    def value_bytes(self, *, on_gpu: bool) -> int:
        """Of a number that is computed with."""
        return BF16 if self.precision == "bf16" or (on_gpu and self.precision != "fp32") else FP32


def weight_bytes(shape: Shape, rung: Rung, *, on_gpu: bool) -> float:
    """What the frozen base takes on the device; norms of q and k, some thousand numbers, do not count."""
    other, on_host = rung.value_bytes(on_gpu=on_gpu), rung.modulation_on_host
    rows = shape.block_rows + (0 if on_host else shape.modulation_rows)
    weights = shape.block_weights + (0 if on_host else shape.modulation_rows * shape.width)
    layers = shape.block_layers + (0 if on_host else shape.modulation_layers)
    biases = shape.block_rows + shape.modulation_rows
    each, beside = _code_bytes(rung.precision, other), 0.0
    if rung.precision == "int8":
        beside = rows * INT8_ROW
    if rung.precision == "nf4":
        beside = weights * NF4_SCALES + layers * NF4_LAYER
    return (weights - _streamed_weights(shape, rung)) * each + beside + (biases + shape.outer_parameters) * other


def _code_bytes(precision: Precision, other: int) -> float:
    """Of a weight in a block, without its share of scales."""
    return {"int8": INT8, "nf4": NF4}.get(precision, other)


def _streamed_weights(shape: Shape, rung: Rung) -> int:
    """How many weights of blocks are not on the device, but for two slots that each have room for any."""
    places = streamed_places(rung.streamed_blocks, of=shape.blocks)
    streamed = [shape.weights_of_block(place, with_modulation=not rung.modulation_on_host) for place in places]
    return sum(streamed) - SLOTS * max(streamed, default=0)
