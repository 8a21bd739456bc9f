"""A plain LoRA: two matrices, lora_A and lora_B, or lora_down and lora_up. Knows no names of layers."""

from lora.formats.tensor_keys import FileLayer
from lora.formats.weight_deltas import LowRankFactors


def plain_delta(layer: FileLayer) -> LowRankFactors:
    """alpha / rank times up [out, rank] @ down [rank, in] (arXiv 2106.09685, section 4.1).

    Raises ValueError if one of them is missing or not a matrix, or if their ranks differ.
    """
    down, up = layer.matrix("lora_down"), layer.matrix("lora_up")
    if len(down) != up.shape[1]:
        raise ValueError(f"is inconsistent: the matrices of {layer.name} have the ranks {len(down)} and {up.shape[1]}")
    return LowRankFactors(down, up * layer.scaling(len(down)))
