"""The precisions of the frozen base."""

from typing import Literal

Precision = Literal["fp32", "bf16", "int8", "nf4"]
