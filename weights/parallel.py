"""Work on several files side by side, and its progress in the log. A job can be cancelled at any moment."""

import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread
from typing import TypeVar

from weights.printed import size_text

Item = TypeVar("Item")
POLL_SECONDS = 0.1
SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts bytes from several threads, and logs a line every ten seconds."""

    def __init__(self, what: str, total: int | None, log_line: Callable[[str], None], *, done: int = 0) -> None:
        """`total` in bytes, None if it is unknown; `done` bytes were there before and do not count for the speed."""
        self._what, self._total, self._log_line = what, total, log_line
        self._done, self._lock = done, Lock()
        self._logged_at, self._logged = time.monotonic(), done

    def add(self, count: int) -> None:
        """Count bytes; negative ones are taken back."""
        with self._lock:
            self._done += count

    def report(self) -> None:
        """Log a line if the last one is ten seconds old."""
        seconds = time.monotonic() - self._logged_at
        if seconds < SECONDS_BETWEEN_LINES:
            return
        speed = (self._done - self._logged) / seconds
        self._logged_at, self._logged = time.monotonic(), self._done
        of = f" of {size_text(self._total)}" if self._total else ""
        left = f", {_duration((self._total - self._done) / speed)} left" if self._total and speed > 0 else ""
        self._log_line(f"{self._what}: {size_text(self._done)}{of}, {size_text(speed)}/s{left}")


def run_in_parallel(
    work: Callable[[Item, Event], None], items: Sequence[Item], *, workers: int, report_progress: Callable[[], None]
) -> None:
    """Call `work` with each item, in their order, in several threads, and `report_progress` again and again until the
    end.

    Raises the first ValueError or OSError of `work`. Then, and if this is interrupted, an event is set that `work` gets
    too: it must check it after every wait and change nothing from then on, as a thread that waits for a server is left
    behind.
    """
    waiting: SimpleQueue[Item] = SimpleQueue()
    for item in items:
        waiting.put(item)
    stop, errors, done = Event(), SimpleQueue[Exception](), SimpleQueue[Item]()

    def run() -> None:
        try:
            while not stop.is_set():
                item = waiting.get_nowait()
                work(item, stop)
                done.put(item)
        except Empty:
            return
        except (ValueError, OSError) as error:
            errors.put(error)

    threads = [Thread(target=run, name="file", daemon=True) for _ in range(min(workers, len(items)))]
    try:
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads) and errors.empty():
            report_progress()
            time.sleep(POLL_SECONDS)
        if not errors.empty():
            raise errors.get()
        if done.qsize() != len(items):
            raise RuntimeError("a thread ended without finishing its file")
    finally:
        stop.set()


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"  # noqa: PLR2004 - two digits are enough
