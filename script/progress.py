"""How far a command has come, on stderr: a line that is rewritten in a terminal, or a line now and then elsewhere."""

import sys
import threading
import time
from pathlib import Path

from lora.dataset.inspection import Inspection, Inspector
from lora.dataset.mask_settings import MaskSettings

SECONDS_OF_SILENCE = 2.0  # a short command says nothing
SECONDS_IN_TERMINAL, SECONDS_IN_LOG = 0.2, 10.0


class Progress:
    """Counts things, and reports their number. Thread-safe."""

    def __init__(self, done: str) -> None:
        """`done` says what was done, as in "inspected {count} images"."""
        self._done, self._count, self._is_shown = done, 0, False
        self._next = time.monotonic() + SECONDS_OF_SILENCE
        self._lock = threading.Lock()

    def add(self) -> None:
        """Count one more."""
        with self._lock:
            self._count += 1
            if time.monotonic() >= self._next:
                self._show()

    def end(self) -> None:
        """Remove the line from the terminal."""
        if self._is_shown and sys.stderr.isatty():
            print(end="\r\x1b[K", file=sys.stderr, flush=True)

    def _show(self) -> None:
        is_terminal, self._is_shown = sys.stderr.isatty(), True
        self._next = time.monotonic() + (SECONDS_IN_TERMINAL if is_terminal else SECONDS_IN_LOG)
        line = self._done.format(count=f"{self._count:,}")
        print(f"\r\x1b[K{line}" if is_terminal else line, end="" if is_terminal else "\n", file=sys.stderr, flush=True)


class ReportingInspector(Inspector):
    """An inspector that reports how many images it has inspected."""

    def __init__(
        self,
        resolutions: tuple[int, ...],
        *,
        crops: int,
        batch_size: int,
        masks: MaskSettings,
        progress: Progress,
    ) -> None:
        """It stores no pixels."""
        super().__init__(resolutions, None, crops=crops, batch_size=batch_size, masks=masks)
        self._progress = progress

    def inspect(self, path: Path) -> Inspection:
        """As `Inspector.inspect`."""
        inspection = super().inspect(path)
        self._progress.add()
        return inspection
