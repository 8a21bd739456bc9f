"""The memory of the frozen base on the device, for each precision and placement. Computes with numbers only."""

from dataclasses import dataclass, replace

from lora.base.dimensions import Dimensions
from lora.engine.options import Recomputed
from lora.engine.precision import MatmulPrecision, Precision

FP32, BF16 = 4, 2
INT8, INT8_ROW = 1, 4  # a code for each weight, and an fp32 scale for each row
# A code for each weight, an 8-bit scale for each block of 64 weights, and an fp32 scale for 256 of those (QLoRA, 2.).
NF4, NF4_SCALES = 0.5, (1 + 4 / 256) / 64
NF4_LAYER = FP32 * (16 + 256 + 1)  # both code tables and a mean, for each layer


@dataclass(frozen=True, slots=True)
class MemoryConfiguration:
    """The precision and placement of the base's weights, and which activations are recomputed."""

    precision: Precision
    recomputed: Recomputed
    modulation_on_host: bool
    streamed_blocks: int = 0  # number of blocks whose weights stay on the host
    whole_blocks: int = 0  # number of blocks that are recomputed as a whole, if `recomputed` keeps more
    matmul: MatmulPrecision = "bf16"  # of layers with 8-bit weights

    def with_streamed_blocks(self, blocks: int) -> "MemoryConfiguration":
        """The same configuration with this number of streamed blocks."""
        return replace(self, streamed_blocks=blocks)

    def value_bytes(self, *, on_gpu: bool) -> int:
        """Bytes of a value in the precision in which the base computes."""
        return BF16 if self.precision == "bf16" or (on_gpu and self.precision != "fp32") else FP32


def weight_bytes(shape: Dimensions, configuration: MemoryConfiguration, *, on_gpu: bool) -> float:
    """Bytes of the frozen base on the device, without the norms of q and k, which are a few thousand numbers."""
    other, on_host = configuration.value_bytes(on_gpu=on_gpu), configuration.modulation_on_host
    rows = shape.block_rows + (0 if on_host else shape.modulation_rows)
    weights = shape.block_weights + (0 if on_host else shape.modulation_weights)
    layers = shape.block_layers + (0 if on_host else shape.modulation_layers)
    offloaded = shape.offloaded_weights(configuration.streamed_blocks, with_modulation=not on_host)
    each, scales = code_bytes(configuration.precision, other), 0.0
    if configuration.precision == "int8":
        scales = rows * INT8_ROW
    if configuration.precision == "nf4":
        scales = weights * NF4_SCALES + layers * NF4_LAYER
    return (weights - offloaded) * each + scales + (shape.block_biases + shape.outer_parameters) * other


def code_bytes(precision: Precision, other: int) -> float:
    """Bytes of a weight in a block, without its share of the scales."""
    return {"int8": INT8, "nf4": NF4}.get(precision, other)
