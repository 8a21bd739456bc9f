"""Learning-rate schedules and a progress line for the trainings of tiny-flux."""

import math
import time
from collections.abc import Callable

PRINT_INTERVAL = 60  # seconds


def warm_up_then_cosine(steps: int, *, warm_up: int) -> Callable[[int], float]:
    """Return the factor on the learning rate: linear to 1 over `warm_up` steps, then a cosine to 0 at `steps`."""
    return lambda step: min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * min(step / steps, 1.0)))


def warm_up_then_decay(steps: int, *, warm_up: int, decay: float) -> Callable[[int], float]:
    """Return the factor on the learning rate: linear to 1 over `warm_up` steps, constant, then linear to 0 over the
    last steps, which are a share `decay` of all."""
    fall = max(1.0, steps * decay)
    return lambda step: min(1.0, (step + 1) / max(1, warm_up), (steps - step) / fall if decay else 1.0)


class Progress:
    """Prints the smoothed loss and the seconds per step every minute, for the steps of this run of the build."""

    def __init__(self, name: str, steps: int, *, done: int) -> None:
        self._name, self._steps, self._done, self._step = name, steps, done, done
        self._loss, self._started, self._shown = 0.0, time.monotonic(), time.monotonic()
        self._processor_started = time.process_time()

    def advance(self, loss: float) -> None:
        """Count one step, and print a line if one is due."""
        self._step += 1
        taken = self._step - self._done
        self._loss += (loss - self._loss) / min(taken, 200)
        if time.monotonic() - self._shown > PRINT_INTERVAL or self._step == self._steps:
            self._shown = time.monotonic()
            seconds = (self._shown - self._started) / taken
            processor = (time.process_time() - self._processor_started) / taken
            left = seconds * (self._steps - self._step) / 60
            print(
                f"{self._name}: step {self._step}/{self._steps}, loss {self._loss:.4f}, {seconds:.2f} s a step "
                f"({processor:.2f} of the processor), {left:.0f} min left",
                flush=True,
            )
