"""The end of each training step: gradient clipping, optimizers with their learning-rate schedules, averaged weights."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from diffusers.training_utils import EMAModel
from torch import nn

from script.tiny_flux.state import Tensors

MAX_GRAD_NORM = 1.0
AVERAGE_DECAY = 0.998
MUON_RATE, ADAM_RATE = 2e-3, 1e-3


class Optimization:
    """Updates weights by their gradients, and keeps an exponential moving average of the weights."""

    def __init__(self, optimizers: list[torch.optim.Optimizer], *, rate_factor: Callable[[int], float]) -> None:
        self._optimizers = optimizers
        self._schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, rate_factor) for optimizer in optimizers]
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        self._parameters: list[nn.Parameter] = [parameter for group in groups for parameter in group["params"]]
        self._average = EMAModel(self._parameters, decay=AVERAGE_DECAY)

    def step(self) -> None:
        """Update the weights by their gradients, and clear the gradients."""
        nn.utils.clip_grad_norm_(self._parameters, MAX_GRAD_NORM)
        for optimizer, schedule in zip(self._optimizers, self._schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        self._average.step(self._parameters)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Give the networks their averaged weights within the context."""
        current = [parameter.detach().clone() for parameter in self._parameters]
        self.use_average()
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(self._parameters, current, strict=True):
                    parameter.copy_(value)

    def use_average(self) -> None:
        """Replace the weights by their average, at the end of a stage."""
        self._average.copy_to(self._parameters)

    def state_dict(self) -> Tensors:
        """Return the state of optimizers, schedules and averages, without the weights themselves."""
        return {
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "schedules": [schedule.state_dict() for schedule in self._schedules],
            "average": self._average.state_dict(),
        }

    def load_state_dict(self, state: Tensors) -> None:
        """Load a state from `state_dict`."""
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for schedule, saved in zip(self._schedules, state["schedules"], strict=True):
            schedule.load_state_dict(saved)
        self._average.load_state_dict(state["average"])
        self._average.to(self._parameters[0].device)


def optimizers_for(
    matrices: list[nn.Parameter], others: list[nn.Parameter], *, rate: float
) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices of the blocks and AdamW for `others`; `rate` is a factor on their learning rates."""
    return [
        torch.optim.Muon(matrices, lr=MUON_RATE * rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=ADAM_RATE * rate, betas=(0.9, 0.95), weight_decay=0.01, foreach=True),
    ]
