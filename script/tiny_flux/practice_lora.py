"""A practice LoRA on plain weight matrices. Knows no images and no model.

While it is applied, the product of its factors is added to the weights themselves, and its gradients are computed from
theirs by the chain rule. So one compiled transformer serves the base and every practice LoRA.
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from script.tiny_flux.state import Tensors

RANK = 16
MAX_GRAD_NORM, WEIGHT_DECAY = 1.0, 1e-4  # as in the trainer of lora/

Matrices = list[nn.Parameter]


class PracticeLora:
    """A LoRA that is initialized as PEFT does: A uniform, B zero, so that it has no effect yet."""

    def __init__(self, matrices: Matrices, *, rate: float, generator: torch.Generator) -> None:
        self._matrices = matrices
        self._down = [_uniform(matrix, generator) for matrix in matrices]
        self._up = [matrix.new_zeros(matrix.shape[0], RANK) for matrix in matrices]
        self._optimizer = torch.optim.AdamW([*self._down, *self._up], lr=rate, weight_decay=WEIGHT_DECAY, foreach=True)

    @contextmanager
    def applied(self, *copies: Matrices) -> Iterator[None]:
        """Apply the LoRA to its matrices, and to those of `copies` of their network, within the context; then restore
        them bit for bit."""
        with ExitStack() as stack:
            for matrices in (self._matrices, *copies):
                stack.enter_context(self._applied_to(matrices))
            yield

    def learn(self, loss: Tensor) -> None:
        """Take one step by the gradients of a loss that was computed with the LoRA applied."""
        gradients = torch.autograd.grad(loss, self._matrices)
        for down, up, gradient in zip(self._down, self._up, gradients, strict=True):
            down.grad, up.grad = up.T @ gradient, gradient @ down.T
        nn.utils.clip_grad_norm_([*self._down, *self._up], MAX_GRAD_NORM)
        self._optimizer.step()

    def state_dict(self) -> Tensors:
        """Return factors and optimizer."""
        return {"down": self._down, "up": self._up, "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: Tensors) -> None:
        """Load a state from `state_dict`, including the learning rate."""
        for factor, saved in zip([*self._down, *self._up], [*state["down"], *state["up"]], strict=True):
            factor.copy_(saved)
        self._optimizer.load_state_dict(state["optimizer"])

    @contextmanager
    def _applied_to(self, matrices: Matrices) -> Iterator[None]:
        originals = [matrix.detach().clone() for matrix in matrices]
        with torch.no_grad():
            for matrix, down, up in zip(matrices, self._down, self._up, strict=True):
                matrix.add_(up @ down)
        try:
            yield
        finally:
            with torch.no_grad():
                for matrix, original in zip(matrices, originals, strict=True):
                    matrix.copy_(original)


def _uniform(matrix: Tensor, generator: torch.Generator) -> Tensor:
    """Return the initial A [RANK, inputs] for a weight [outputs, inputs]."""
    inputs = matrix.shape[1]
    initial = (torch.rand(RANK, inputs, generator=generator) * 2 - 1) / math.sqrt(inputs)
    return initial.to(device=matrix.device, dtype=matrix.dtype)
