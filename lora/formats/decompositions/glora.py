"""GLoRA, a LoRA of the output beside one of the input. Knows no names of layers."""

from torch import Tensor

from lora.formats.decompositions.relative import GLoRA, LayerRows
from lora.formats.tensor_keys import FileLayer
from lora.formats.weight_deltas import LayerMapping, LowRankFactors


def glora_delta(layer: FileLayer, mapping: LayerMapping) -> GLoRA:
    """alpha / rank times (W a1 a2 + b1 b2), where a1 is [in, rank], a2 [rank, in], b1 [out, rank] and b2 [rank, in]
    (arXiv 2306.07967; lycoris/modules/glora.py). Older versions of LyCORIS exchange a1 with a2 and b1 with b2.

    Raises ValueError if a tensor is missing or does not match the others.
    """
    a1, a2, b1, b2 = (layer.matrix(f"glora_{part}") for part in ("a1", "a2", "b1", "b2"))
    orders = [each for each in ((a1, a2, b1, b2), (a2, a1, b2, b1)) if _match(*each)]
    if not orders:
        raise ValueError(f"is inconsistent: the matrices of the GLoRA {layer.name} have shapes that do not match")
    a1, a2, b1, b2 = min(orders, key=lambda order: len(order[1]))  # both match if the layer is square
    scaling = layer.scaling(len(a2))
    return GLoRA(a1 * scaling, a2, LowRankFactors(b2, b1 * scaling), LayerRows(mapping, (range(len(b1)),)))


def _match(a1: Tensor, a2: Tensor, b1: Tensor, b2: Tensor) -> bool:
    ranks = {a1.shape[1], len(a2), b1.shape[1], len(b2)}
    return len(ranks) == 1 and len(a1) == a2.shape[1] == b2.shape[1]
