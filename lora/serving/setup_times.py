"""How long each stage of a setup took, in one line. Knows no stage."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage that has ended."""

    name: str
    seconds: float


class StageTimer:
    """Measures stages by name, from its own making on."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._began = time.perf_counter()
        self._ended: list[Stage] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """What happens inside is a stage; one that raises is none."""
        began = time.perf_counter()
        yield
        self._ended.append(Stage(name, time.perf_counter() - began))

    def line(self) -> str:
        """All of it until now and each stage in turn, such as `setup: 12.3 s (base loaded 11.0 s)`."""
        seconds = time.perf_counter() - self._began
        parts = ", ".join(f"{stage.name} {stage.seconds:.1f} s" for stage in self._ended)
        return f"{self._name}: {seconds:.1f} s" + (f" ({parts})" if parts else "")
