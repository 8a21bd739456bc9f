"""Counts the activations that autograd keeps, in units of batch x tokens x width values, with text and image tokens.

Compiled blocks keep less, as they recompute what is cheap; the count ignores that.
"""

from lora.base.dimensions import BlockKind, Dimensions
from lora.engine.options import Engine, Recomputed
from lora.engine.precision import MatmulPrecision, Precision

KEPT: tuple[Recomputed, ...] = ("nothing", "pointwise", "gelu", "blocks")  # from the fastest to the smallest
OUTER, OUTER_UNDER_AUTOCAST = 1, 2  # after the blocks


def most_units(shape: Dimensions, recomputed: Recomputed, *, whole_blocks: int, is_autocast: bool) -> int:
    """The largest number of units that are kept at once: those after the blocks, those that each block keeps, and those
    that are recomputed in one block, of the kind for which these are more. `whole_blocks` blocks are recomputed as a
    whole, whatever `recomputed` is."""
    outer = OUTER_UNDER_AUTOCAST if is_autocast else OUTER
    doubles, singles = shape.split_blocks(whole_blocks)
    units, most_recomputed = outer, 0
    for kind, whole in ((shape.double, doubles), (shape.single, singles)):
        units += whole * kind.kept["blocks"] + (kind.count - whole) * _kept(kind, recomputed, is_autocast)
        kept = _kept(kind, "blocks" if whole_blocks else recomputed, is_autocast)
        most_recomputed = max(most_recomputed, _kept(kind, "nothing", is_autocast) - kept)
    return units + most_recomputed


def _kept(kind: BlockKind, recomputed: Recomputed, is_autocast: bool) -> int:
    return kind.kept_under_autocast if is_autocast and recomputed == "nothing" else kind.kept[recomputed]


def recompute_options(engine: Engine, precision: Precision, matmul: MatmulPrecision) -> tuple[Recomputed, ...]:
    """What an engine can recompute, from the fastest option to the smallest. int8 matmuls yield int32, twice the bytes
    of their rounded result, so keeping only some of the results is no option."""
    is_int32 = precision == "int8" and matmul == "int8"
    return ("nothing", "blocks") if engine == "plain" or is_int32 else KEPT
