"""LoHa, the elementwise product of two LoRAs. Knows no names of layers."""

from lora.formats.decompositions.factors import Hadamard
from lora.formats.tensor_keys import FileLayer
from lora.formats.weight_deltas import LowRankFactors


def loha_delta(layer: FileLayer) -> Hadamard:
    """alpha / rank times (w1_a @ w1_b) * (w2_a @ w2_b), where a are [out, rank] and b [rank, in]
    (arXiv 2108.06098; lycoris/functional/loha.py divides alpha by the rank of the first).

    Raises ValueError if a tensor is missing or does not match the others.
    """
    first = LowRankFactors(layer.matrix("hada_w1_b"), layer.matrix("hada_w1_a"))
    second = LowRankFactors(layer.matrix("hada_w2_b"), layer.matrix("hada_w2_a"))
    if any(each.up.shape[1] != len(each.down) for each in (first, second)) or first.shape != second.shape:
        raise ValueError(f"is inconsistent: the matrices of the LoHa {layer.name} have shapes that do not match")
    return Hadamard(LowRankFactors(first.down, first.up * layer.scaling(len(first.down))), second)
