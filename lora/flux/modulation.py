"""Modulation layers on the host answer ahead of time: their weights visit the device once for many batches.

What they see of a batch is known before it is its turn, and no training changes it. A LoRA on such a layer is no part
of this: it is added to the answer when that is used.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor
from torch.nn import functional

from lora.engine.linears import HostLinear
from lora.engine.options import PRECOMPUTED_BYTES
from lora.flux.velocity import embedder_weight

MAX_PRECOMPUTED_BATCHES = 128  # batches: FLUX.1 has no room for so many, and a small model nothing to gain from more


@dataclass(frozen=True, slots=True)
class Conditions:
    """What modulation layers see of a batch, beside the guidance."""

    sigmas: Tensor  # [B] fp32, in 0..1
    pooled: Tensor  # [B, P] from CLIP


class PrecomputedModulation:
    """The answers of a transformer's modulation layers on the host, if it has any, to batches that are yet to come.

    They are those that the layers would give, bit for bit, as each batch is multiplied by itself; so it does not matter
    from which batch on they are made, and a training may be stopped and resumed at any.
    """

    def __init__(self, transformer: FluxTransformer2DModel, *, batch_size: int) -> None:
        """For batches of at most so many samples."""
        self._transformer = transformer
        self._layers = [layer for layer in transformer.modules() if isinstance(layer, HostLinear)]
        sample = sum(layer.out_features for layer in self._layers) * transformer.dtype.itemsize
        fitting = PRECOMPUTED_BYTES // (batch_size * sample) if self._layers else 0
        self._at_once = min(max(1, fitting), MAX_PRECOMPUTED_BATCHES)
        self._answers: dict[int, list[Tensor]] = {}  # to a batch, by its number: of each layer, [B, out]

    @contextmanager
    def precomputed(
        self, number: int, conditions_of: Callable[[int], Conditions | None], *, guidance: float
    ) -> Iterator[None]:
        """The layers answer to batch `number` with what was made ahead, in forward and recomputed passes alike.

        Where nothing is ahead, `conditions_of` is asked for this batch and those that follow; one without any is left
        out. The guidance is that of all of them.
        """
        if self._layers and number not in self._answers:
            self._look_ahead(number, conditions_of, guidance)
        try:
            for layer, answer in zip(self._layers, self._answers.get(number, []), strict=True):
                layer.answer = answer
            yield
        finally:
            for layer in self._layers:
                layer.answer = None

    @torch.no_grad()
    def _look_ahead(self, first: int, conditions_of: Callable[[int], Conditions | None], guidance: float) -> None:
        self._answers = {}  # the old ones make room
        numbered = {number: conditions_of(number) for number in range(first, first + self._at_once)}
        seen = {number: self._seen(each, guidance) for number, each in numbered.items() if each is not None}
        answers: dict[int, list[Tensor]] = {number: [] for number in seen}
        device = embedder_weight(self._transformer).device
        for layer in self._layers:
            weight = layer.visiting(device)
            for number, x in seen.items():
                answers[number].append(layer.apply_weight(weight, x))
        self._answers = answers

    def _seen(self, conditions: Conditions, guidance: float) -> Tensor:
        """What every modulation layer gets [B, width], as `FluxTransformer2DModel.forward` and `AdaLayerNormZero` of
        diffusers make it."""
        transformer = self._transformer
        weight = embedder_weight(transformer)
        device, dtype = weight.device, weight.dtype
        sigmas = conditions.sigmas.to(device)
        times = [each.to(dtype) * 1000 for each in (sigmas, torch.full_like(sigmas, guidance))]
        return functional.silu(transformer.time_text_embed(*times, conditions.pooled.to(device, dtype)))
