"""Counts the activations that autograd keeps, in units of batch x tokens x width values, with text and image tokens.

Checked against measurements on a CPU. Compiled blocks keep less, as they recompute what is cheap; the count ignores
that.
"""

from dataclasses import dataclass

from lora.engine.options import Engine, Recomputed
from lora.engine.precision import MatmulPrecision, Precision
from lora.flux.dimensions import Dimensions


@dataclass(frozen=True, slots=True)
class Units:
    """The units that are kept for one block of each kind."""

    double: int
    single: int


# With a LoRA on each linear layer. Double block: input, norm and modulated norm of attention and of feed-forward 6; q
# and k before their norms 2; q, k, v and output of attention 4; its two parts, copied if a batch has several images, 1;
# input and output of GELU 8; inputs of the two gates 2. Single block: 3, 2, 4, input of GELU 4, input of proj_out 5,
# input of the gate 1.
ALL = Units(double=23, single=19)
# Under autocast, norms compute in fp32 (2 units for 1), and each LoRA keeps its own copy of its input.
ALL_UNDER_AUTOCAST = Units(double=29, single=24)
KEPT: dict[Recomputed, Units] = {
    "nothing": ALL,
    # The block's input 1; outputs of the q, k and v layers 3; output of attention 1; input of GELU 4; inputs of the
    # gates 2 or 1.
    "pointwise": Units(double=11, single=10),
    "gelu": Units(double=7, single=6),  # the same without the input of GELU
    "blocks": Units(double=1, single=1),  # the block's input
}
OUTER, OUTER_UNDER_AUTOCAST = 1, 2  # after the blocks


def most_units(shape: Dimensions, recomputed: Recomputed, *, whole_blocks: int, is_autocast: bool) -> int:
    """The largest number of units that are kept at once: those after the blocks, those that each block keeps, and those
    that are recomputed in one block, counted as a double one. `whole_blocks` blocks are recomputed as a whole, whatever
    `recomputed` is."""
    every, outer = (ALL_UNDER_AUTOCAST, OUTER_UNDER_AUTOCAST) if is_autocast else (ALL, OUTER)
    kept, whole = every if recomputed == "nothing" else KEPT[recomputed], KEPT["blocks"]
    doubles, singles = shape.split_blocks(whole_blocks)
    units = outer + doubles * whole.double + singles * whole.single
    units += (shape.num_layers - doubles) * kept.double + (shape.num_single_layers - singles) * kept.single
    return units + every.double - (whole if whole_blocks else kept).double


def recompute_options(engine: Engine, precision: Precision, matmul: MatmulPrecision) -> tuple[Recomputed, ...]:
    """What an engine can recompute, from the fastest option to the smallest. int8 matmuls yield int32, twice the bytes
    of their rounded result, so keeping only some of the results is no option."""
    is_int32 = precision == "int8" and matmul == "int8"
    return ("nothing", "blocks") if engine == "plain" or is_int32 else tuple(KEPT)
