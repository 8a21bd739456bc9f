"""LoHa, the elementwise product of two LoRAs. Knows no names of layers."""

from lora.formats.decompositions.factors import Hadamard
from lora.formats.tensor_keys import Layer
from lora.formats.weight_deltas import Pair


def loha_delta(layer: Layer) -> Hadamard:
    """alpha / rank times (w1_a @ w1_b) * (w2_a @ w2_b), where a are [out, rank] and b [rank, in]
    (arXiv 2108.06098; lycoris/functional/loha.py divides alpha by the rank of the first).

    Raises ValueError if a part is missing or does not fit the others.
    """
    first = Pair(layer.matrix("hada_w1_b"), layer.matrix("hada_w1_a"))
    second = Pair(layer.matrix("hada_w2_b"), layer.matrix("hada_w2_a"))
    if any(pair.up.shape[1] != len(pair.down) for pair in (first, second)) or first.shape != second.shape:
        raise ValueError(f"is inconsistent: the parts of the LoHa {layer.name} do not fit each other")
    return Hadamard(Pair(first.down, first.up * layer.strength(len(first.down))), second)
