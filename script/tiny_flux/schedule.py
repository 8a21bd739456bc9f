"""What both trainings of tiny-flux share: a learning-rate curve, an average of the weights, a line of progress."""

import math
import time
from collections.abc import Callable

import torch
from torch import nn


def warm_up_then_cosine(steps: int, *, warm_up: int) -> Callable[[int], float]:
    """A factor on the learning rate: up to 1 over `warm_up` steps, then along a cosine to 0 at `steps`."""
    return lambda step: min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * min(step / steps, 1.0)))


def warm_up_then_decay(steps: int, *, warm_up: int) -> Callable[[int], float]:
    """A factor on the learning rate: up to 1 over `warm_up` steps, level for half of all, then straight down to 0."""
    return lambda step: min(1.0, (step + 1) / warm_up, 2 * (1 - step / steps) + 1e-3)


class Average:
    """An exponential moving average of a module's parameters, slower as training goes on."""

    def __init__(self, module: nn.Module, *, decay: float) -> None:
        self._decay, self._updates = decay, 0
        self._shadow = [parameter.detach().clone() for parameter in module.parameters()]

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take in the parameters as they are now."""
        self._updates += 1
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        torch._foreach_lerp_(self._shadow, list(module.parameters()), 1 - decay)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Replace the module's parameters by their average."""
        for parameter, shadow in zip(module.parameters(), self._shadow, strict=True):
            parameter.copy_(shadow)


class Progress:
    """Prints the smoothed loss and the time left, a line every 20 seconds."""

    def __init__(self, name: str, steps: int) -> None:
        self._name, self._steps, self._step = name, steps, 0
        self._loss, self._started, self._shown = 0.0, time.monotonic(), 0.0

    def advance(self, loss: float) -> None:
        """Count one step."""
        self._step += 1
        self._loss += (loss - self._loss) / min(self._step, 200)
        elapsed = time.monotonic() - self._started
        if elapsed - self._shown > 20 or self._step == self._steps:
            self._shown = elapsed
            left = elapsed / self._step * (self._steps - self._step) / 60
            print(f"{self._name}: step {self._step}/{self._steps}, loss {self._loss:.4f}, {left:.1f} min left")
