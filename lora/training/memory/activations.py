"""What autograd keeps of a forward pass, counted in units of batch x tokens x width values, text and image alike.

Checked against what is kept on a CPU. Compiled blocks, which recompute what is cheap by themselves, keep less; that is
not counted on.
"""

from dataclasses import dataclass

from lora.engine.options import Engine, Recomputed
from lora.engine.precision import Precision


@dataclass(frozen=True, slots=True)
class Units:
    """What is kept of one block of each kind."""

    double: int
    single: int


# With a LoRA on each linear layer. Double block: input, norm and modulated norm of attention and of feed-forward 6; q
# and k before their norms 2; q, k, v and output of attention 4; its two parts, copied where a batch has several images,
# 1; into and out of GELU 8; what the two gates multiply 2. Single block: 3, 2, 4, into GELU 4, into proj_out 5, under
# the gate 1.
ALL = Units(double=23, single=19)
# Under autocast norms work in fp32 (2 for 1), and each LoRA keeps its own copy of its input.
ALL_UNDER_AUTOCAST = Units(double=29, single=24)
KEPT: dict[Recomputed, Units] = {
    "nothing": ALL,
    # The block's input 1; q, k, v as their layers answer 3; output of attention 1; into GELU 4; under the gates 2 or 1.
    "pointwise": Units(double=11, single=10),
    "gelu": Units(double=7, single=6),  # the same without what goes into GELU
    "blocks": Units(double=1, single=1),  # the block's input
}
OUTER, OUTER_UNDER_AUTOCAST = 1, 2  # after the blocks


def most_units(*, doubles: int, singles: int, recomputed: Recomputed, is_autocast: bool) -> int:
    """What is kept at the most by so many blocks: of all of them, and the rest of the one that is being recomputed."""
    every, outer = (ALL_UNDER_AUTOCAST, OUTER_UNDER_AUTOCAST) if is_autocast else (ALL, OUTER)
    kept = every if recomputed == "nothing" else KEPT[recomputed]
    return outer + doubles * kept.double + singles * kept.single + (every.double - kept.double)


def rungs(engine: Engine, precision: Precision) -> tuple[Recomputed, ...]:
    """What an engine can recompute, from the fastest to the smallest. Products of 8 bits are sums in int32, twice the
    bytes of what becomes of them: none of them is kept alone."""
    return tuple(KEPT) if engine == "fast" and precision != "int8" else ("nothing", "blocks")
