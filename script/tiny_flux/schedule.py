"""What the trainings of tiny-flux share: learning-rate curves and a line of progress."""

import math
import time
from collections.abc import Callable

SHOWN_EVERY = 60  # seconds


def warm_up_then_cosine(steps: int, *, warm_up: int) -> Callable[[int], float]:
    """A factor on the learning rate: up to 1 over `warm_up` steps, then along a cosine to 0 at `steps`."""
    return lambda step: min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * min(step / steps, 1.0)))


def warm_up_then_decay(steps: int, *, warm_up: int, decay: float) -> Callable[[int], float]:
    """A factor on the learning rate: up to 1 over `warm_up` steps, then level, then straight down to 0 over the last
    `decay` of all steps."""
    fall = max(1.0, steps * decay)
    return lambda step: min(1.0, (step + 1) / max(1, warm_up), (steps - step) / fall if decay else 1.0)


class Progress:
    """Prints the smoothed loss and what a step costs, a line a minute. Counts the steps of this sitting alone."""

    def __init__(self, name: str, steps: int, *, done: int) -> None:
        self._name, self._steps, self._done, self._step = name, steps, done, done
        self._loss, self._started, self._shown = 0.0, time.monotonic(), time.monotonic()
        self._processor_started = time.process_time()

    def advance(self, loss: float) -> None:
        """Count one step."""
        self._step += 1
        taken = self._step - self._done
        self._loss += (loss - self._loss) / min(taken, 200)
        if time.monotonic() - self._shown > SHOWN_EVERY or self._step == self._steps:
            self._shown = time.monotonic()
            seconds = (self._shown - self._started) / taken
            processor = (time.process_time() - self._processor_started) / taken
            left = seconds * (self._steps - self._step) / 60
            print(
                f"{self._name}: step {self._step}/{self._steps}, loss {self._loss:.4f}, {seconds:.2f} s a step "
                f"({processor:.2f} of the processor), {left:.0f} min left",
                flush=True,
            )
