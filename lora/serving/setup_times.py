"""Measures how long each stage of a setup takes, and formats it as one line. Knows no stage."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stage:
    """A finished stage."""

    name: str
    seconds: float


class StageTimer:
    """Measures named stages, and the total time since it was created."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._started = time.perf_counter()
        self._finished: list[Stage] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the block as a stage, unless it raises."""
        started = time.perf_counter()
        yield
        self._finished.append(Stage(name, time.perf_counter() - started))

    def line(self) -> str:
        """Return the total time and the time of each stage, such as `setup: 12.3 s (base loaded 11.0 s)`."""
        seconds = time.perf_counter() - self._started
        parts = ", ".join(f"{stage.name} {stage.seconds:.1f} s" for stage in self._finished)
        return f"{self._name}: {seconds:.1f} s" + (f" ({parts})" if parts else "")
