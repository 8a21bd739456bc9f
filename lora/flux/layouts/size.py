"""How large LoHa and LoKr may become as two matrices: a small file could fill any memory. Knows no names of layers."""

from lora.flux.layouts.parts import Layer

MOST_NUMBERS = 3072 * (21504 + 3072)  # in the two matrices of a layer: of the largest layer of FLUX.1 at its full rank
MOST_IN_ALL = 2**31  # 8 GB in fp32: of FLUX.1, a rank of 400 on all layers


def refuse_size(layer: Layer, *, rank: int, rows: int, columns: int) -> None:
    """Raises ValueError if a layer [rows, columns] cannot have that rank, or memory cannot hold it."""
    most = min(rows, columns, MOST_NUMBERS // (rows + columns))
    if rank > most:
        raise ValueError(
            f"comes to the rank {rank} at {layer.name}, for {rows} x {columns} weights: expected at most {most}"
        )


def refuse_growth(numbers: int) -> None:
    """Raises ValueError if all layers together are more than memory can hold."""
    if numbers > MOST_IN_ALL:
        raise ValueError(
            f"comes to more than {MOST_IN_ALL:,} numbers as a plain LoRA: expected a LoHa or LoKr of a lower rank"
        )
