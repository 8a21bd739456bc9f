"""Precompute the outputs of modulation layers on the host: their weights move to the device once for many batches.

The inputs of these layers are known in advance for each batch, and training does not change them. A LoRA on such a
layer is not precomputed: it is added to the output when that is used.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from lora.base.transformer import embedder_weight
from lora.engine.linears import HostLinear
from lora.engine.options import PRECOMPUTED_BYTES

MAX_PRECOMPUTED_BATCHES = 128  # FLUX.1 has no memory for so many, and a small model gains nothing from more


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the input of modulation layers in a batch depends on, beside the guidance."""

    sigmas: Tensor  # [B] fp32, in 0..1
    pooled: Tensor | None  # [B, P] from CLIP; None for a family without it


# The input [B, width] of every modulation layer of a transformer, at conditions on its device and a guidance
LayerInput = Callable[[Any, Conditions, float], Tensor]


class PrecomputedModulation:
    """Outputs of a transformer's modulation layers on the host, if it has any, for future batches.

    They equal the outputs of the layers themselves, bit for bit, as each batch is multiplied separately. So it does not
    matter at which batch precomputing begins, and training may stop and resume at any batch.
    """

    def __init__(self, transformer: ModelMixin, layer_input: LayerInput | None, *, batch_size: int) -> None:
        """For batches of at most `batch_size` samples; `layer_input` is None for a family without such layers."""
        self._transformer, self._layer_input = transformer, layer_input
        self._layers = [layer for layer in transformer.modules() if isinstance(layer, HostLinear)]
        sample = sum(layer.out_features for layer in self._layers) * transformer.dtype.itemsize
        fitting = PRECOMPUTED_BYTES // (batch_size * sample) if self._layers else 0
        self._at_once = min(max(1, fitting), MAX_PRECOMPUTED_BATCHES)
        self._outputs: dict[int, list[Tensor]] = {}  # by the number of the batch: [B, out] of each layer

    @property
    def has_layers(self) -> bool:
        """Whether any modulation layer is on the host."""
        return bool(self._layers)

    @contextmanager
    def precomputed(
        self, number: int, conditions_of: Callable[[int], Conditions | None], *, guidance: float
    ) -> Iterator[None]:
        """Inside the `with` block, the layers return the precomputed outputs of batch `number`, in forward and
        recomputed passes alike.

        If there are none, they are computed for this batch and those that follow, with the conditions that
        `conditions_of` returns for each number; batches for which it returns None are left out. The guidance is the
        same for all.
        """
        if self._layers and number not in self._outputs:
            self._precompute(number, conditions_of, guidance)
        try:
            for layer, output in zip(self._layers, self._outputs.get(number, []), strict=True):
                layer.output = output
            yield
        finally:
            for layer in self._layers:
                layer.output = None

    @torch.no_grad()
    def _precompute(self, first: int, conditions_of: Callable[[int], Conditions | None], guidance: float) -> None:
        assert self._layer_input is not None
        self._outputs = {}  # frees the memory of the previous ones
        numbered = {number: conditions_of(number) for number in range(first, first + self._at_once)}
        inputs = {
            number: self._layer_input(self._transformer, each, guidance)
            for number, each in numbered.items()
            if each is not None
        }
        outputs: dict[int, list[Tensor]] = {number: [] for number in inputs}
        device = embedder_weight(self._transformer).device
        for layer in self._layers:
            weight = layer.weight_on(device)
            for number, x in inputs.items():
                outputs[number].append(layer.apply_weight(weight, x))
        self._outputs = outputs
