"""The numbers of every step of a training: what a loss curve is drawn from. Knows no model and no file."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from lora.training.learning.loop import Step

SMOOTHING = 0.95  # weight of the past in the smoothed loss; the loss of single steps varies mostly with sigma
DIGITS = 6  # significant digits in a file: enough to draw, and half the size of all of them


@dataclass(frozen=True, slots=True)
class StepNumbers:
    """The numbers of one step. None stands for a number that is not finite, or does not exist in this step."""

    step: int  # 1 is the first
    loss: float | None  # mean over all samples of the step, before the update
    smoothed_loss: float | None  # of this step and all before; None before the first finite loss
    learning_rate: float  # of the update; for Prodigy, the one that it estimated
    grad_norm: float | None  # of all layers together, before clipping
    mean_sigma: float  # over all samples of the step; 1 is pure noise
    preservation_loss: float | None


NUMBERS = TypeAdapter(list[StepNumbers])


class History:
    """The numbers of all steps so far."""

    def __init__(self) -> None:
        self._steps: list[StepNumbers] = []
        self._count = 0  # of finite losses

    @property
    def steps(self) -> tuple[StepNumbers, ...]:
        """All steps, in order."""
        return tuple(self._steps)

    def add(self, number: int, step: Step) -> StepNumbers:
        """Add a finished step, and return its numbers, rounded as in a file."""
        self._count += math.isfinite(step.loss)
        numbers = StepNumbers(
            number,
            _rounded(step.loss),
            _rounded(self._smoothed(step.loss)),
            float(f"{step.learning_rate:.{DIGITS}g}"),
            _rounded(step.grad_norm),
            float(f"{step.mean_sigma:.{DIGITS}g}"),
            None if step.preservation_loss is None else _rounded(step.preservation_loss),
        )
        self._steps.append(numbers)
        return numbers

    def values(self) -> list[dict[str, Any]]:
        """All steps as JSON, for a checkpoint."""
        return [asdict(step) for step in self._steps]

    def restore(self, values: object) -> None:
        """Continue the history of a checkpoint, which may be untrusted. Raises TypeError if it is none."""
        try:
            self._steps = NUMBERS.validate_json(json.dumps(values), strict=True)  # strict for Python refuses dicts
        except ValidationError as error:
            raise TypeError("its history of steps is damaged") from error
        self._count = sum(step.loss is not None for step in self._steps)

    def _smoothed(self, loss: float) -> float:
        """The mean of the first losses, and from the twentieth on an exponential moving average."""
        last = next((step.smoothed_loss for step in reversed(self._steps) if step.smoothed_loss is not None), 0.0)
        if not math.isfinite(loss):
            return last if self._count else math.nan
        return last + max(1 - SMOOTHING, 1 / self._count) * (loss - last)


def curves(step: StepNumbers) -> dict[str, float]:
    """The numbers of a step that exist, for trackers."""
    return {name: value for name, value in asdict(step).items() if name != "step" and value is not None}


def json_lines(steps: tuple[StepNumbers, ...]) -> Iterator[str]:
    """The steps as lines of JSON, each with a line break."""
    for step in steps:
        numbers = {
            name: value for name, value in asdict(step).items() if name != "preservation_loss" or value is not None
        }
        yield json.dumps(numbers) + "\n"


def _rounded(value: float) -> float | None:
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
