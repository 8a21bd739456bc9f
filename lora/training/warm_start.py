"""A LoRA from elsewhere becomes the beginning of a training, whatever its rank."""

from collections.abc import Iterator, Mapping

import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from peft.tuners.lora import LoraLayer
from torch import Tensor

from lora.dataset.wording import counted
from lora.training.adapter import ADAPTER

PREFIX = "transformer."
LEARNED, UNLEARNED = ".lora_B.weight", ".lora_A.weight"


@torch.no_grad()
def begin_with(transformer: FluxTransformer2DModel, tensors: Mapping[str, Tensor]) -> str:
    """Give the LoRA that a transformer wears the change of weights of another; returns a line on what was taken.

    At a higher rank the change is the same to the last bit, at a lower one it is the nearest that there is. Raises
    ValueError if the two have no layer in common, or one of another shape.
    """
    given = dict(_pairs(tensors))
    taken = 0
    for name, module in transformer.named_modules():
        if isinstance(module, LoraLayer) and ADAPTER in module.lora_A and name in given:
            _fill(module, *given[name], name=name)
            taken += 1
    if not taken:
        raise ValueError(f"resume_from is a LoRA on {counted(len(given), 'layer')}, none of which this training has")
    left = len(given) - taken
    return f"begins with the LoRA of resume_from: {counted(taken, 'layer')} taken, {left} left out"


def _pairs(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, tuple[Tensor, Tensor]]]:
    """Layer names with A and B, from any layout that diffusers reads."""
    state, alphas = FluxPipeline.lora_state_dict(dict(tensors), return_alphas=True)
    for name, learned in state.items():
        first = state.get(name.replace(LEARNED, UNLEARNED))
        if name.startswith(PREFIX) and name.endswith(LEARNED) and first is not None:
            layer, rank = name.removesuffix(LEARNED), first.shape[0]
            share = float((alphas or {}).get(f"{layer}.alpha", rank)) / rank
            yield layer.removeprefix(PREFIX), (first.float(), learned.float() * share)


def _fill(module: LoraLayer, first: Tensor, learned: Tensor, *, name: str) -> None:
    ours: Tensor = module.lora_A[ADAPTER].weight  # type: ignore[assignment]
    theirs: Tensor = module.lora_B[ADAPTER].weight  # type: ignore[assignment]
    if first.shape[1] != ours.shape[1] or learned.shape[0] != theirs.shape[0]:
        found = f"{learned.shape[0]} x {first.shape[1]}"
        raise ValueError(f"resume_from has {name} for {found} weights: expected {theirs.shape[0]} x {ours.shape[1]}")
    if first.shape[0] > ours.shape[0]:
        first, learned = _nearest(first, learned, rank=ours.shape[0])
    rank = first.shape[0]
    theirs.zero_()
    ours[:rank], theirs[:, :rank] = first.to(ours.device), learned.to(theirs.device)


def _nearest(first: Tensor, learned: Tensor, *, rank: int) -> tuple[Tensor, Tensor]:
    """The pair of a lower rank whose product is nearest to B A (Eckart and Young): by the singular values of the small
    matrix between the two, as the product itself may be large."""
    left, small_left = torch.linalg.qr(learned)
    right, small_right = torch.linalg.qr(first.T)
    u, values, v = torch.linalg.svd(small_left @ small_right.T)
    roots = values[:rank].sqrt()
    return (roots[:, None] * v[:rank]) @ right.T, left @ (u[:, :rank] * roots)
