"""The log of a training: at most one progress line a second, and other lines and metrics as they come."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

SMOOTHING = 0.95  # weight of the past in the shown preservation loss
SECONDS_BETWEEN_LINES = 1.0
SECONDS_BETWEEN_IMAGES = 10.0  # between lines about the images that a base generates

RecordMetric = Callable[[str, float], None]


class Numbers(Protocol):
    """The numbers of a step that are shown."""

    @property
    def step(self) -> int:
        """The number of the step; 1 is the first."""

    @property
    def smoothed_loss(self) -> float | None:
        """The smoothed loss of this step and those before."""

    @property
    def preservation_loss(self) -> float | None:
        """None if the step has none."""

    @property
    def learning_rate(self) -> float:
        """The learning rate of the update."""


class Recorder(Protocol):
    """Records numbers and images of steps, without waiting and without raising."""

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Record numbers of a step by their names."""

    def image(self, step: int, name: str, path: Path) -> None:
        """Record an image of a step."""


class Log:
    """Prints lines and records metrics. If neither can be written any more, the training goes on.

    Cog closes the log of a job when the server shuts down and gives no other sign; `is_closed` is true from then on.
    """

    def __init__(self, record_metric: RecordMetric, recorder: Recorder | None) -> None:
        """`recorder` is that of trackers, or None without any."""
        self._record_metric, self._recorder, self._began = record_metric, recorder, time.monotonic()
        self.is_closed = False

    def seconds(self) -> float:
        """Seconds since the log was opened, when the job began."""
        return time.monotonic() - self._began

    def write(self, *lines: str) -> None:
        """Print lines."""
        try:
            for line in lines:
                print_line(line)
        except OSError:
            self.is_closed = True

    def record(self, name: str, value: float) -> None:
        """Record a metric."""
        try:
            self._record_metric(name, value)
        except OSError:
            self.is_closed = True

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Record numbers of a step with the trackers."""
        if self._recorder is not None:
            self._recorder.numbers(step, values)

    def image(self, step: int, name: str, path: Path) -> None:
        """Record an image of a step with the trackers."""
        if self._recorder is not None:
            self._recorder.image(step, name, path)


def print_line(line: str) -> None:
    """Print a line at once. Raises OSError if nobody reads any more."""
    print(line, flush=True)


def throttle(report: Callable[[str], object]) -> Callable[[str], object]:
    """Wrap `report` so that it drops lines that follow the last one, or this call, within a few seconds."""
    last = time.monotonic()

    def throttled(line: str) -> None:
        nonlocal last
        if time.monotonic() - last > SECONDS_BETWEEN_IMAGES:
            last = time.monotonic()
            report(line)

    return throttled


class Progress:
    """Shows step, smoothed loss, learning rate, seconds per step and time left; time between steps does not count."""

    def __init__(self, log: Log, *, steps: int) -> None:
        self._log, self._steps = log, steps
        self._seconds, self._count = 0.0, 0
        self._preservation_loss, self._preserving_steps = 0.0, 0
        self._shown = time.monotonic()

    def report(self, numbers: Numbers, seconds: float) -> None:
        """Count a finished step, and show it if a line is due or it is the last step."""
        self._count += 1
        self._seconds += seconds
        self._add_preservation(numbers.preservation_loss)
        now = time.monotonic()
        if now - self._shown < SECONDS_BETWEEN_LINES and numbers.step < self._steps:
            return
        self._shown = now
        seconds_per_step = self._seconds / self._count
        left = round(seconds_per_step * (self._steps - numbers.step))
        second = f"  preservation loss {self._preservation_loss:.2e}" if self._preserving_steps else ""
        self._log.write(
            f"step {numbers.step}/{self._steps}  loss {numbers.smoothed_loss or 0.0:.4f}{second}"
            f"  lr {numbers.learning_rate:.2e}  {seconds_per_step:.2f} s/step  {left // 60}:{left % 60:02} left"
        )
        self._log.record("train.step", numbers.step)
        self._log.record("train.loss", round(numbers.smoothed_loss or 0.0, 6))
        if self._preserving_steps:
            self._log.record("train.preservation_loss", float(f"{self._preservation_loss:.6g}"))

    def _add_preservation(self, loss: float | None) -> None:
        if loss is not None:
            self._preserving_steps += 1
            self._preservation_loss += max(1 - SMOOTHING, 1 / self._preserving_steps) * (loss - self._preservation_loss)
