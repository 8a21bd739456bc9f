"""LoHa, the elementwise product of two LoRAs, as one LoRA of the product of their ranks. Knows no names of layers."""

from torch import Tensor

from lora.flux.layouts.parts import Layer
from lora.flux.layouts.record import Pair
from lora.flux.layouts.size import refuse_size


def loha_pair(layer: Layer) -> Pair:
    """alpha / rank times (w1_a @ w1_b) * (w2_a @ w2_b), where a are [out, rank] and b [rank, in], exactly
    (arXiv 2108.06098; lycoris/functional/loha.py).

    Row o of the product is the sum over i, j of w1_a[o, i] w2_a[o, j] times (w1_b[i] * w2_b[j]): the row-wise and the
    column-wise Khatri-Rao product. Raises ValueError if a part is missing or does not fit the others, or the rank that
    comes out is too high.
    """
    ups = [layer.matrix("hada_w1_a"), layer.matrix("hada_w2_a")]
    downs = [layer.matrix("hada_w1_b"), layer.matrix("hada_w2_b")]
    _refuse_misfit(layer, ups, downs)
    rank, rows, columns = len(downs[0]) * len(downs[1]), len(ups[0]), downs[0].shape[1]
    refuse_size(layer, rank=rank, rows=rows, columns=columns)
    up = (ups[0][:, :, None] * ups[1][:, None, :]).reshape(rows, rank)
    down = (downs[0][:, None, :] * downs[1][None, :, :]).reshape(rank, columns)
    return Pair(down, up * layer.strength(len(downs[0])))


def _refuse_misfit(layer: Layer, ups: list[Tensor], downs: list[Tensor]) -> None:
    ranks_differ = any(up.shape[1] != len(down) for up, down in zip(ups, downs, strict=True))
    if ranks_differ or len(ups[0]) != len(ups[1]) or downs[0].shape[1] != downs[1].shape[1]:
        raise ValueError(f"is inconsistent: the parts of the LoHa {layer.name} do not fit each other")
