"""How large a LoRA may become that is brought from a form of products into two matrices."""

from lora.flux.layouts.parts import Layer


def refuse_size(layer: Layer, *, rank: int, rows: int, columns: int) -> None:
    """Raises ValueError if two matrices of that rank would hold more numbers than the layer [rows, columns] itself: a
    small file could then fill any memory."""
    if rank * (rows + columns) > rows * columns:
        raise ValueError(
            f"has the rank {rank} at {layer.name}, a layer of {rows} x {columns} weights: "
            f"expected at most {rows * columns // (rows + columns)}, as more cannot be worn as a LoRA"
        )
