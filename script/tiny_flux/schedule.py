"""What both trainings of tiny-flux share: learning-rate curves and a line of progress."""

import math
import time
from collections.abc import Callable


def warm_up_then_cosine(steps: int, *, warm_up: int) -> Callable[[int], float]:
    """A factor on the learning rate: up to 1 over `warm_up` steps, then along a cosine to 0 at `steps`."""
    return lambda step: min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * min(step / steps, 1.0)))


def warm_up_then_decay(steps: int, *, warm_up: int) -> Callable[[int], float]:
    """A factor on the learning rate: up to 1 over `warm_up` steps, level for half of all, then straight down to 0."""
    return lambda step: min(1.0, (step + 1) / warm_up, 2 * (1 - step / steps) + 1e-3)


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
