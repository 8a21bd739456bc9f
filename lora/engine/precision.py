"""The precisions of the frozen base, and how layers with int8 weights are multiplied."""

from dataclasses import dataclass
from typing import Literal

Precision = Literal["fp32", "bf16", "int8", "nf4"]
# What int8 weights are multiplied in: int8, with rounded inputs; or bf16, after they are dequantized. Not fp8, whose
# coarser rounding brings the gradients of the embedded base to a cosine of 0.980 with those in fp32: int8 has 0.996.
MatmulPrecision = Literal["int8", "bf16"]


@dataclass(frozen=True, slots=True)
class TimedMatmul:
    """A way to multiply int8 weights, and the time that it takes."""

    matmul: MatmulPrecision
    milliseconds: float | None  # of a layer, forward and for the gradient of its input; None if it was not timed

    def __str__(self) -> str:
        return f"{self.matmul} matmul" + ("" if self.milliseconds is None else f", {self.milliseconds:.2f} ms a layer")


UNTIMED = (TimedMatmul("bf16", None),)  # what is used where nothing is timed
