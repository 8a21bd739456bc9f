"""What a person watching a training sees: at most one line a second of steps, and what there is to say between."""

import time
from collections.abc import Callable

SMOOTHING = 0.95  # how much of the shown loss is its past; single steps differ by their sigma above all
SECONDS_BETWEEN_LINES = 1.0
SECONDS_BETWEEN_IMAGES = 10.0  # between lines on images that a base generates

METRIC = "\x1emetric"  # begins a line that is a number for the process that reads it, not words for a person

RecordMetric = Callable[[str, float], None]


class Log:
    """Lines and numbers for a person. One that can no longer be written is no reason to lose a training.

    Cog closes the log of a job whose server shuts down: then `is_closed`, which is the only sign that there is.
    """

    def __init__(self, record_metric: RecordMetric) -> None:
        self._record_metric = record_metric
        self.is_closed = False

    def say(self, *lines: str) -> None:
        """Print lines."""
        try:
            for line in lines:
                print(line, flush=True)
        except OSError:
            self.is_closed = True

    def record(self, name: str, value: float) -> None:
        """Record a number."""
        try:
            self._record_metric(name, value)
        except OSError:
            self.is_closed = True


def print_metric(name: str, value: float) -> None:
    """Record a number from a process whose output another one reads."""
    print(METRIC, name, value, flush=True)


def relay_line(line: str, log: Log) -> None:
    """Say or record what such a process printed."""
    if line.startswith(METRIC):
        name, value = line.removeprefix(METRIC).split()
        log.record(name, float(value))
    else:
        log.say(line)


def throttle(say: Callable[[str], object]) -> Callable[[str], object]:
    """Says a line only if the last one, or this call, was a few seconds ago."""
    last = time.monotonic()

    def seldom(line: str) -> None:
        nonlocal last
        if time.monotonic() - last > SECONDS_BETWEEN_IMAGES:
            last = time.monotonic()
            say(line)

    return seldom


class Progress:
    """Shows step, smoothed loss, seconds a step and time left; what is done between steps is not counted."""

    def __init__(self, log: Log, *, steps: int) -> None:
        self._log, self._steps = log, steps
        self._loss, self._seconds, self._count = 0.0, 0.0, 0
        self._preservation, self._preserved = 0.0, 0
        self._shown = time.monotonic()

    def report(self, step: int, loss: float, seconds: float, *, preservation: float | None = None) -> None:
        """Take note of a finished step, and show it if it is time or the last; `preservation` is its second loss, of
        steps that have one."""
        self._count += 1
        self._seconds += seconds
        self._loss += max(1 - SMOOTHING, 1 / self._count) * (loss - self._loss)
        if preservation is not None:
            self._preserved += 1
            self._preservation += max(1 - SMOOTHING, 1 / self._preserved) * (preservation - self._preservation)
        now = time.monotonic()
        if now - self._shown < SECONDS_BETWEEN_LINES and step < self._steps:
            return
        self._shown = now
        each = self._seconds / self._count
        left = round(each * (self._steps - step))
        time_left = f"{left // 60}:{left % 60:02} left"
        preserved = f"  preservation loss {self._preservation:.2e}" if self._preserved else ""
        self._log.say(f"step {step}/{self._steps}  loss {self._loss:.4f}{preserved}  {each:.2f} s a step  {time_left}")
        self._log.record("train.step", step)
        self._log.record("train.loss", round(self._loss, 6))
        if self._preserved:
            self._log.record("train.preservation_loss", float(f"{self._preservation:.6g}"))
