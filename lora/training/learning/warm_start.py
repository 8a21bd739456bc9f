"""A LoRA from elsewhere becomes the beginning of a training, whatever its rank."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from diffusers import FluxTransformer2DModel
from peft.tuners.lora import LoraLayer
from torch import Tensor

from lora.dataset.wording import counted
from lora.formats.reading import convert_lora
from lora.formats.shapes import Shape
from lora.formats.weight_deltas import Change, Pair
from lora.training.learning.adapter import ADAPTER


@dataclass(frozen=True, slots=True)
class Match:
    """What of a LoRA a training can begin with."""

    changes: Mapping[str, Change]  # by names of layers
    left_out: int  # layers of the LoRA that are not trained

    def line(self) -> str:
        """For a person."""
        taken = counted(len(self.changes), "layer")
        return f"begins with the LoRA of resume_from: {taken} taken, {self.left_out} left out"


def match_layers(tensors: Mapping[str, Tensor], shapes: Mapping[str, Shape]) -> Match:
    """The part of a LoRA of any known layout that is on layers of these shapes; text encoders are not trained, and
    passed over.

    Raises ValueError if the LoRA is not one of FLUX.1, they have no layer in common, or one of another shape.
    """
    try:
        given = convert_lora(tensors).transformer
    except ValueError as error:
        raise ValueError(f"resume_from cannot be begun with: the LoRA {error}") from error
    changes = {name: given[name] for name in shapes if name in given}
    if not changes:
        raise ValueError(f"resume_from is a LoRA on {counted(len(given), 'layer')}, none of which this training has")
    for name, change in changes.items():
        _refuse_incompatible(name, change, shapes[name])
    return Match(changes, len(given) - len(changes))


@torch.no_grad()
def load_initial_lora(transformer: FluxTransformer2DModel, tensors: Mapping[str, Tensor]) -> None:
    """Give the LoRA that a transformer wears the change of weights of another, as far as they match.

    At a higher rank the change is the same to the last bit, at a lower one it is the nearest that there is. Raises
    ValueError as `match_layers` does.
    """
    layers = {name: layer for name, layer in transformer.named_modules() if isinstance(layer, LoraLayer)}
    worn = {name: _halves(layer) for name, layer in layers.items() if ADAPTER in layer.lora_A}
    for name, change in match_layers(tensors, {name: halves.shape for name, halves in worn.items()}).changes.items():
        _fill(worn[name], change.pair())


def _halves(layer: LoraLayer) -> Pair:
    return Pair(layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight)  # type: ignore[arg-type]


def _refuse_incompatible(name: str, change: Change, shape: Shape) -> None:
    if change.shape != shape:
        found, expected = (f"{each.outputs} x {each.inputs}" for each in (change.shape, shape))
        raise ValueError(f"resume_from has {name} for {found} weights: expected {expected}")
    try:
        pair = change.pair()
    except ValueError as error:
        raise ValueError(f"resume_from has {name}, which {error}") from error
    if not all(tensor.isfinite().all() for tensor in pair.tensors):
        raise ValueError(f"resume_from has {name} with numbers that become infinite: it cannot be begun with")


def _fill(worn: Pair, pair: Pair) -> None:
    if len(pair.down) > len(worn.down):
        pair = _nearest(pair, rank=len(worn.down))
    rank = len(pair.down)
    worn.up.zero_()
    worn.down[:rank], worn.up[:, :rank] = pair.down.to(worn.down.device), pair.up.to(worn.up.device)


def _nearest(pair: Pair, *, rank: int) -> Pair:
    """The pair of a lower rank whose product is nearest to B A (Eckart and Young): by the singular values of the small
    matrix between the two, as the product itself may be large."""
    left, small_left = torch.linalg.qr(pair.up)
    right, small_right = torch.linalg.qr(pair.down.T)
    u, values, v = torch.linalg.svd(small_left @ small_right.T)
    roots = values[:rank].sqrt()
    return Pair((roots[:, None] * v[:rank]) @ right.T, left @ (u[:, :rank] * roots))
