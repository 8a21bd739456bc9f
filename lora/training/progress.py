"""What a person watching a training sees: at most one line a second."""

import time
from collections.abc import Callable

SMOOTHING = 0.95  # how much of the shown loss is its past; single steps differ by their sigma above all
SECONDS_BETWEEN_LINES = 1.0

RecordMetric = Callable[[str, float], None]


class Progress:
    """Prints and records step, smoothed loss, seconds a step and time left."""

    def __init__(self, steps: int, *, record_metric: RecordMetric) -> None:
        self._steps, self._record = steps, record_metric
        self._loss = 0.0
        self._started = self._shown = time.monotonic()

    def report(self, step: int, loss: float) -> None:
        """Take note of a finished step, and show it if it is time or the last."""
        weight = max(1 - SMOOTHING, 1 / step)
        self._loss += weight * (loss - self._loss)
        now = time.monotonic()
        if now - self._shown < SECONDS_BETWEEN_LINES and step < self._steps:
            return
        self._shown = now
        seconds = (now - self._started) / step
        left = round(seconds * (self._steps - step))
        time_left = f"{left // 60}:{left % 60:02} left"
        print(f"step {step}/{self._steps}  loss {self._loss:.4f}  {seconds:.2f} s a step  {time_left}")
        self._record("train.step", step)
        self._record("train.loss", round(self._loss, 6))
