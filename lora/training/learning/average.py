"""The average (EMA) of the trained weights, updated as one tensor where they are one. Knows no optimizer."""

from collections.abc import Iterable, Sequence

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn


class Average(EMAModel):
    """diffusers' EMAModel of many small parameters. If these are views of one flat tensor, so are their averages, and a
    step computes the same, bit for bit, with a few kernels.

    With a Python loop over hundreds of parameters in every step, the GPU would wait for the host: the average is all
    that is left to queue between the optimizer and the next forward pass.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], *, flat: nn.Parameter | None, **options: object) -> None:
        """`flat` has the parameters as views, in their order, if they are flattened; `options` are EMAModel's."""
        super().__init__(parameters, foreach=True, **options)
        self._flat, self._flat_average = flat, torch.empty(0)
        if flat is not None:
            self._flat_average = flat.detach().clone()
            parts = self._flat_average.split([each.numel() for each in parameters])
            self.shadow_params: list[Tensor] = [
                part.view_as(each) for part, each in zip(parts, parameters, strict=True)
            ]

    def step(self, parameters: Iterable[nn.Parameter]) -> None:
        """Update the average by the current values of the parameters, which are those of the constructor."""
        if self._flat is None:
            super().step(parameters)
            return
        separate, self.shadow_params = self.shadow_params, [self._flat_average]
        try:
            super().step([self._flat])
        finally:
            self.shadow_params = separate
