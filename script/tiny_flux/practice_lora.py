"""A LoRA for practice, on plain weight matrices. Knows no pictures and no model.

Its product is added to the weights themselves while it is worn, and its gradients follow from theirs by the chain
rule: so one compiled transformer serves the base and every LoRA that comes and goes.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

RANK = 16
MAX_GRAD_NORM, WEIGHT_DECAY = 1.0, 1e-4  # as the trainer's


class PracticeLora:
    """Starts as PEFT's LoRAs do: A uniform, B zero, so that it changes nothing yet."""

    def __init__(self, matrices: list[nn.Parameter], *, rate: float, generator: torch.Generator) -> None:
        self._matrices = matrices
        self._down = [_uniform(RANK, matrix.shape[1], generator).to(matrix.dtype) for matrix in matrices]
        self._up = [torch.zeros(matrix.shape[0], RANK, dtype=matrix.dtype) for matrix in matrices]
        self._optimizer = torch.optim.AdamW([*self._down, *self._up], lr=rate, weight_decay=WEIGHT_DECAY, foreach=True)

    @contextmanager
    def worn(self) -> Iterator[None]:
        """Within, the matrices are changed by the LoRA; afterwards they are as before, bit for bit."""
        bare = [matrix.detach().clone() for matrix in self._matrices]
        with torch.no_grad():
            for matrix, down, up in zip(self._matrices, self._down, self._up, strict=True):
                matrix.add_(up @ down)
        try:
            yield
        finally:
            with torch.no_grad():
                for matrix, value in zip(self._matrices, bare, strict=True):
                    matrix.copy_(value)

    def learn(self, loss: Tensor) -> None:
        """One step down the loss, which must come from the matrices as they are while the LoRA is worn."""
        gradients = torch.autograd.grad(loss, self._matrices)
        for down, up, gradient in zip(self._down, self._up, gradients, strict=True):
            down.grad, up.grad = up.T @ gradient, gradient @ down.T
        nn.utils.clip_grad_norm_([*self._down, *self._up], MAX_GRAD_NORM)
        self._optimizer.step()


def _uniform(rank: int, inputs: int, generator: torch.Generator) -> Tensor:
    return (torch.rand(rank, inputs, generator=generator) * 2 - 1) / math.sqrt(inputs)
