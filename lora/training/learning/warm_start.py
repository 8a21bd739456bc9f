"""Warm start: initialize the LoRA of a training from an existing LoRA of any rank."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from diffusers.models.modeling_utils import ModelMixin
from peft.tuners.lora import LoraLayer
from torch import Tensor

from lora.dataset.wording import counted
from lora.families.registry import family_of_model
from lora.formats.decompositions.relative import DependsOnBase
from lora.formats.foreign_models import incompatible_model_hint
from lora.formats.layer_names.record import LayerNames
from lora.formats.reading import convert_lora
from lora.formats.shapes import Shape
from lora.formats.weight_deltas import LowRankFactors, WeightDelta
from lora.training.learning.adapter import ADAPTER


@dataclass(frozen=True, slots=True)
class MatchedLora:
    """The part of an existing LoRA that is on the layers of a training."""

    deltas: Mapping[str, WeightDelta]  # by layer name
    left_out: int  # number of layers, biases and norms of the LoRA that are not trained

    def line(self) -> str:
        """A line for the log."""
        taken = counted(len(self.deltas), "layer")
        return f"starting from the LoRA in resume_from: {taken} used, {self.left_out} ignored"


def match_layers(tensors: Mapping[str, Tensor], shapes: Mapping[str, Shape], names: LayerNames) -> MatchedLora:
    """The part of a LoRA of any known layout that is on the weights of these layers. Biases, norms and the layers of
    the text encoders are ignored, as they are not trained.

    Raises ValueError if the LoRA is not for the family with these names, if no layer matches, or if a layer has another
    shape.
    """
    try:
        lora = convert_lora(tensors, names)
    except ValueError as error:
        raise ValueError(f"resume_from cannot be used: the LoRA {error}") from error
    given = lora.transformer
    deltas = {name: given[name] for name in shapes if name in given}
    if not deltas:
        found = f"resume_from is a LoRA on {counted(len(given), 'layer')}, none of which is trained"
        raise ValueError(f"{found}: expected at least one of the trained layers")
    for name in deltas:
        _refuse_incompatible(name, shapes[name], given, names)
    vectors = [name for name in lora.vectors if name.model == "transformer"]
    return MatchedLora(deltas, len(given) - len(deltas) + len(vectors))


@torch.no_grad()
def load_initial_lora(transformer: ModelMixin, tensors: Mapping[str, Tensor]) -> None:
    """Set the LoRA of a transformer to the weight deltas of another LoRA, on the layers that match.

    At the same or a higher rank the deltas are equal, bit for bit; at a lower rank they are the nearest deltas of that
    rank. Raises ValueError as `match_layers` does.
    """
    layers = {name: layer for name, layer in transformer.named_modules() if isinstance(layer, LoraLayer)}
    own = {name: _factors(layer) for name, layer in layers.items() if ADAPTER in layer.lora_A}
    shapes, names = {name: factors.shape for name, factors in own.items()}, family_of_model(transformer).layer_names
    for name, delta in match_layers(tensors, shapes, names).deltas.items():
        _fill(own[name], delta.low_rank())


def _factors(layer: LoraLayer) -> LowRankFactors:
    return LowRankFactors(layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight)  # type: ignore[arg-type]


def _refuse_incompatible(name: str, shape: Shape, given: Mapping[str, WeightDelta], names: LayerNames) -> None:
    delta = given[name]
    if delta.shape != shape:
        found, expected = (f"{each.outputs} x {each.inputs}" for each in (delta.shape, shape))
        hint = incompatible_model_hint({layer: each.shape for layer, each in given.items()}, names)
        raise ValueError(f"resume_from has {name} of shape {found}{hint}: expected {expected}")
    if isinstance(delta, DependsOnBase):
        raise ValueError(f"resume_from cannot be used: the LoRA has {name}, which {delta.refusal}")
    try:
        factors = delta.low_rank()
    except ValueError as error:
        raise ValueError(f"resume_from has {name}, which {error}") from error
    if not all(tensor.isfinite().all() for tensor in factors.tensors):
        raise ValueError(f"resume_from has {name}, which becomes infinite: expected finite weights")


def _fill(own: LowRankFactors, factors: LowRankFactors) -> None:
    if len(factors.down) > len(own.down):
        factors = _nearest(factors, rank=len(own.down))
    rank = len(factors.down)
    own.up.zero_()
    own.down[:rank], own.up[:, :rank] = factors.down.to(own.down.device), factors.up.to(own.up.device)


def _nearest(factors: LowRankFactors, *, rank: int) -> LowRankFactors:
    """The factors of a lower rank whose product is nearest to B A (Eckart and Young).

    Computes the singular values of a small matrix, from QR decompositions of both factors, as the product is large.
    """
    left, small_left = torch.linalg.qr(factors.up)
    right, small_right = torch.linalg.qr(factors.down.T)
    u, values, v = torch.linalg.svd(small_left @ small_right.T)
    roots = values[:rank].sqrt()
    return LowRankFactors((roots[:, None] * v[:rank]) @ right.T, left @ (u[:, :rank] * roots))
