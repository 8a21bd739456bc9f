"""A LoRA for practice, on plain weight matrices. Knows no pictures and no model.

Its product is added to the weights themselves while it is applied, and its gradients follow from theirs by the chain
rule: so one compiled transformer serves the base and every LoRA that comes and goes.
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from script.tiny_flux.state import Tensors

RANK = 16
MAX_GRAD_NORM, WEIGHT_DECAY = 1.0, 1e-4  # as the trainer's

Matrices = list[nn.Parameter]


class PracticeLora:
    """Starts as PEFT's LoRAs do: A uniform, B zero, so that it changes nothing yet."""

    def __init__(self, matrices: Matrices, *, rate: float, generator: torch.Generator) -> None:
        self._matrices = matrices
        self._down = [_uniform(matrix, generator) for matrix in matrices]
        self._up = [matrix.new_zeros(matrix.shape[0], RANK) for matrix in matrices]
        self._optimizer = torch.optim.AdamW([*self._down, *self._up], lr=rate, weight_decay=WEIGHT_DECAY, foreach=True)

    @contextmanager
    def applied(self, *copies: Matrices) -> Iterator[None]:
        """Within, the matrices are changed by the LoRA, and so are those of copies of their network; afterwards they
        are as before, bit for bit."""
        with ExitStack() as stack:
            for matrices in (self._matrices, *copies):
                stack.enter_context(self._applied_to(matrices))
            yield

    def learn(self, loss: Tensor) -> None:
        """One step down the loss, which must come from the matrices as they are while the LoRA is applied."""
        gradients = torch.autograd.grad(loss, self._matrices)
        for down, up, gradient in zip(self._down, self._up, gradients, strict=True):
            down.grad, up.grad = up.T @ gradient, gradient @ down.T
        nn.utils.clip_grad_norm_([*self._down, *self._up], MAX_GRAD_NORM)
        self._optimizer.step()

    def state_dict(self) -> Tensors:
        """Factors and optimizer."""
        return {"down": self._down, "up": self._up, "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: Tensors) -> None:
        """Go on from such a state, its learning rate included."""
        for own, saved in zip([*self._down, *self._up], [*state["down"], *state["up"]], strict=True):
            own.copy_(saved)
        self._optimizer.load_state_dict(state["optimizer"])

    @contextmanager
    def _applied_to(self, matrices: Matrices) -> Iterator[None]:
        bare = [matrix.detach().clone() for matrix in matrices]
        with torch.no_grad():
            for matrix, down, up in zip(matrices, self._down, self._up, strict=True):
                matrix.add_(up @ down)
        try:
            yield
        finally:
            with torch.no_grad():
                for matrix, value in zip(matrices, bare, strict=True):
                    matrix.copy_(value)


def _uniform(matrix: Tensor, generator: torch.Generator) -> Tensor:
    """The start of A for a weight [outputs, inputs]: [RANK, inputs]."""
    inputs = matrix.shape[1]
    start = (torch.rand(RANK, inputs, generator=generator) * 2 - 1) / math.sqrt(inputs)
    return start.to(device=matrix.device, dtype=matrix.dtype)
