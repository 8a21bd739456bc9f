"""LoKr, the Kronecker product of two small matrices, as one LoRA. Knows no names of layers."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lora.flux.layouts.parts import Layer
from lora.flux.layouts.record import Pair
from lora.flux.layouts.size import refuse_size


@dataclass(frozen=True, slots=True)
class Factor:
    """One of the two matrices, left [m, k] @ right [k, n]."""

    left: Tensor
    right: Tensor
    rank: int | None  # that alpha is divided by; None where the file holds the matrix whole


def lokr_pair(layer: Layer) -> Pair:
    """kron(w1, w2), where w1 or w2 or both are products of two again, times alpha / rank if one is, exactly
    (arXiv 2309.14859, section 3; lycoris/modules/lokr.py takes no alpha where both are whole).

    kron(P Q, R S) = kron(P, R) @ kron(Q, S). Raises ValueError if a part is missing or does not fit the others, or the
    rank that comes out is too high.
    """
    first, second = _factor(layer, "lokr_w1"), _factor(layer, "lokr_w2")
    rank = first.left.shape[1] * second.left.shape[1]
    rows, columns = len(first.left) * len(second.left), first.right.shape[1] * second.right.shape[1]
    refuse_size(layer, rank=rank, rows=rows, columns=columns)
    divisor = second.rank or first.rank
    strength = layer.strength(divisor) if divisor else 1.0
    return Pair(torch.kron(first.right, second.right), torch.kron(first.left, second.left) * strength)


def _factor(layer: Layer, name: str) -> Factor:
    if name in layer.parts:
        if f"{name}_a" in layer.parts or f"{name}_b" in layer.parts:
            raise ValueError(f"is inconsistent: it holds {name} of {layer.name} both whole and as a product")
        return _whole(layer.matrix(name))
    left, right = layer.matrix(f"{name}_a"), layer.matrix(f"{name}_b")
    if left.shape[1] != len(right):
        raise ValueError(f"is inconsistent: {name}_a and {name}_b of {layer.name} do not fit each other")
    return Factor(left, right, len(right))


def _whole(matrix: Tensor) -> Factor:
    """By an identity on its shorter side; on its left, parts of a fused layer share nothing, which keeps ranks low."""
    rows, columns = matrix.shape
    if rows <= columns:
        return Factor(torch.eye(rows), matrix, None)
    return Factor(matrix, torch.eye(columns), None)
