"""What the frozen base takes on the device, held in whichever way. From numbers to numbers."""

from dataclasses import dataclass, replace

from lora.engine.options import Recomputed
from lora.engine.precision import Precision
from lora.flux.dimensions import Dimensions

FP32, BF16 = 4, 2
INT8, INT8_ROW = 1, 4  # a code for each weight, and a scale in fp32 for each row
# A code for each weight; for each block of 64 a scale in 8 bits, and for 256 of those a scale in fp32 (QLoRA, 2.).
NF4, NF4_SCALES = 0.5, (1 + 4 / 256) / 64
NF4_LAYER = FP32 * (16 + 256 + 1)  # both tables of codes and a mean, of each layer


@dataclass(frozen=True, slots=True)
class MemoryConfiguration:
    """How a base is held, and what is recomputed of it."""

    precision: Precision
    recomputed: Recomputed
    modulation_on_host: bool
    streamed_blocks: int = 0  # whose weights are on the host

    def streaming(self, blocks: int) -> "MemoryConfiguration":
        """The same with so many blocks streamed."""
        return replace(self, streamed_blocks=blocks)

    def value_bytes(self, *, on_gpu: bool) -> int:
        """Of a number that is computed with."""
        return BF16 if self.precision == "bf16" or (on_gpu and self.precision != "fp32") else FP32


def weight_bytes(shape: Dimensions, rung: MemoryConfiguration, *, on_gpu: bool) -> float:
    """What the frozen base takes on the device; norms of q and k, some thousand numbers, do not count."""
    other, on_host = rung.value_bytes(on_gpu=on_gpu), rung.modulation_on_host
    rows = shape.block_rows + (0 if on_host else shape.modulation_rows)
    weights = shape.block_weights + (0 if on_host else shape.modulation_rows * shape.width)
    layers = shape.block_layers + (0 if on_host else shape.modulation_layers)
    away = shape.offloaded_weights(rung.streamed_blocks, with_modulation=not on_host)
    biases = shape.block_rows + shape.modulation_rows
    each, beside = _code_bytes(rung.precision, other), 0.0
    if rung.precision == "int8":
        beside = rows * INT8_ROW
    if rung.precision == "nf4":
        beside = weights * NF4_SCALES + layers * NF4_LAYER
    return (weights - away) * each + beside + (biases + shape.outer_parameters) * other


def _code_bytes(precision: Precision, other: int) -> float:
    """Of a weight in a block, without its share of scales."""
    return {"int8": INT8, "nf4": NF4}.get(precision, other)
