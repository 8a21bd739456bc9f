"""The precisions that the frozen base can be held in."""

from typing import Literal

Precision = Literal["fp32", "bf16", "int8", "nf4"]
