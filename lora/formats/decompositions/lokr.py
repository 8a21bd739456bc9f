"""LoKr, the Kronecker product of two small matrices. Knows no names of layers."""

from lora.formats.decompositions.factors import Factor, Kronecker
from lora.formats.tensor_keys import FileLayer


def lokr_delta(layer: FileLayer) -> Kronecker:
    """kron(w1, w2), where w1, w2 or both are products of two matrices, times alpha / rank if one is
    (arXiv 2309.14859, section 3; lycoris/modules/lokr.py ignores alpha where both are whole).

    Raises ValueError if a tensor is missing or does not match the others.
    """
    first, second = _factor(layer, "lokr_w1"), _factor(layer, "lokr_w2")
    product = second.right if second.right is not None else first.right
    scaling = 1.0 if product is None else layer.scaling(len(product))
    rows = range(first.shape.outputs * second.shape.outputs)
    return Kronecker(Factor(first.left * scaling, first.right), second, (rows,))


def _factor(layer: FileLayer, name: str) -> Factor:
    if name in layer.tensors:
        if f"{name}_a" in layer.tensors or f"{name}_b" in layer.tensors:
            raise ValueError(f"is inconsistent: it has {name} of {layer.name} both as one matrix and as two")
        return Factor(layer.matrix(name), None)
    left, right = layer.matrix(f"{name}_a"), layer.matrix(f"{name}_b")
    if left.shape[1] != len(right):
        raise ValueError(f"is inconsistent: {name}_a and {name}_b of {layer.name} have shapes that do not match")
    return Factor(left, right)
