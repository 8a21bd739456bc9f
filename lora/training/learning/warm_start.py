"""A LoRA from elsewhere becomes the beginning of a training, whatever its rank."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from diffusers import FluxTransformer2DModel
from peft.tuners.lora import LoraLayer
from torch import Tensor

from lora.dataset.wording import counted
from lora.flux.lora_layout import DOWN, MATRIX, PREFIX, UP, Shape, in_diffusers_layout, refuse_halves
from lora.training.learning.adapter import ADAPTER


class Pair(NamedTuple):
    """The change of one layer's weights, B A."""

    first: Tensor  # A [rank, in] fp32
    learned: Tensor  # B [out, rank] fp32, alpha / rank folded in

    @property
    def shape(self) -> Shape:
        """That of the layer it changes."""
        return Shape(inputs=self.first.shape[1], outputs=len(self.learned))


@dataclass(frozen=True, slots=True)
class Match:
    """What of a LoRA a training can begin with."""

    pairs: Mapping[str, Pair]  # by names of layers
    left_out: int  # layers of the LoRA that are not trained

    def line(self) -> str:
        """For a person."""
        taken = counted(len(self.pairs), "layer")
        return f"begins with the LoRA of resume_from: {taken} taken, {self.left_out} left out"


def matched(tensors: Mapping[str, Tensor], shapes: Mapping[str, Shape]) -> Match:
    """The part of a LoRA that is on layers of these shapes, from any layout that diffusers reads.

    Raises ValueError if they have no layer in common, or one of another shape.
    """
    try:
        given = dict(_pairs(tensors))
    except ValueError as error:
        raise ValueError(f"resume_from cannot be begun with: {error}") from error
    pairs = {name: given[name] for name in shapes if name in given}
    if not pairs:
        raise ValueError(f"resume_from is a LoRA on {counted(len(given), 'layer')}, none of which this training has")
    for name, pair in pairs.items():
        _refuse_misfit(name, pair, shapes[name])
        if not (pair.first.isfinite().all() and pair.learned.isfinite().all()):
            raise ValueError(f"resume_from has {name} with an alpha that makes it infinite: it cannot be begun with")
    return Match(pairs, len(given) - len(pairs))


@torch.no_grad()
def begin_with(transformer: FluxTransformer2DModel, tensors: Mapping[str, Tensor]) -> None:
    """Give the LoRA that a transformer wears the change of weights of another, as far as they match.

    At a higher rank the change is the same to the last bit, at a lower one it is the nearest that there is. Raises
    ValueError as `matched` does.
    """
    layers = {name: layer for name, layer in transformer.named_modules() if isinstance(layer, LoraLayer)}
    worn = {name: _halves(layer) for name, layer in layers.items() if ADAPTER in layer.lora_A}
    for name, pair in matched(tensors, {name: halves.shape for name, halves in worn.items()}).pairs.items():
        _fill(worn[name], pair)


def _halves(layer: LoraLayer) -> Pair:
    return Pair(layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight)  # type: ignore[arg-type]


def _pairs(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Pair]]:
    """By names of layers; other tensors than those of the transformer's layers are passed over."""
    lora = in_diffusers_layout(tensors)
    halves = {name: each for name, each in lora.tensors.items() if name.startswith(PREFIX)}
    for name, tensor in halves.items():
        if not name.endswith((DOWN, UP)) or tensor.ndim != MATRIX:
            raise ValueError(f"the LoRA holds {name}: expected lora_A and lora_B of linear layers alone")
    refuse_halves(halves)
    for name, first in halves.items():
        if name.endswith(DOWN):
            layer = name.removesuffix(DOWN)
            share = float((lora.alphas or {}).get(f"{layer}.alpha", len(first))) / len(first)
            yield layer.removeprefix(PREFIX), Pair(first.float(), halves[layer + UP].float() * share)


def _refuse_misfit(name: str, pair: Pair, shape: Shape) -> None:
    if pair.shape != shape:
        found, expected = (f"{each.outputs} x {each.inputs}" for each in (pair.shape, shape))
        raise ValueError(f"resume_from has {name} for {found} weights: expected {expected}")


def _fill(worn: Pair, pair: Pair) -> None:
    if len(pair.first) > len(worn.first):
        pair = _nearest(pair, rank=len(worn.first))
    rank = len(pair.first)
    worn.learned.zero_()
    worn.first[:rank], worn.learned[:, :rank] = pair.first.to(worn.first.device), pair.learned.to(worn.learned.device)


def _nearest(pair: Pair, *, rank: int) -> Pair:
    """The pair of a lower rank whose product is nearest to B A (Eckart and Young): by the singular values of the small
    matrix between the two, as the product itself may be large."""
    first, learned = pair
    left, small_left = torch.linalg.qr(learned)
    right, small_right = torch.linalg.qr(first.T)
    u, values, v = torch.linalg.svd(small_left @ small_right.T)
    roots = values[:rank].sqrt()
    return Pair((roots[:, None] * v[:rank]) @ right.T, left @ (u[:, :rank] * roots))
