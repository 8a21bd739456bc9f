"""Hands what happens in a training to trackers, each in a thread of its own; one that fails or is too slow is muted."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.pool import ThreadPool
from pathlib import Path

from lora.reporting.trackers.tracker import Settings, Tracker

SECONDS_TO_START = 20.0  # of all trackers together, before the training goes on without those that are not ready
SECONDS_TO_END = 20.0  # in which they may send the rest
SECONDS_TO_BREAK_OFF = 1.0  # instead, if the training was cancelled or failed
MOST_WAITING = 10_000  # calls that wait for a slow tracker; more are dropped
LONGEST_REASON = 200

Call = Callable[[Tracker], None]
Report = Callable[[str], None]


class Trackers:
    """The trackers of a training, by name. The training's own thread never waits for them but at the start and end."""

    def __init__(self, trackers: Mapping[str, Tracker]) -> None:
        self._tracks = [_Track(name, tracker) for name, tracker in trackers.items()]
        self._report: Report = _nobody

    @contextmanager
    def recording(self, settings: Settings, report: Report) -> Iterator[None]:
        """A context in which they record, from their start to their end.

        `report` is called from the training's thread with a line for each tracker that is muted.
        """
        self._report, is_whole = report, False
        try:
            self.start(settings)
            yield
            is_whole = True
        finally:
            self.end(is_whole=is_whole)

    def start(self, settings: Settings) -> None:
        """Start all of them, and wait until they are ready, at most 20 seconds in all."""
        deadline = time.monotonic() + SECONDS_TO_START
        for track in self._tracks:
            track.begin(settings)
        for track in self._tracks:
            if not track.started.wait(max(deadline - time.monotonic(), 0)):
                track.mute(f"it was not ready after {SECONDS_TO_START:.0f} s")
        self._report_muted()

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Record numbers of a step."""
        self._call(lambda tracker: tracker.numbers(step, values))

    def image(self, step: int, name: str, path: Path) -> None:
        """Record an image of a step; the file has to stay until the end."""
        self._call(lambda tracker: tracker.image(step, name, path))

    def end(self, *, is_whole: bool) -> None:
        """Let them finish within 20 seconds, or within one if the training did not come to its end (`is_whole`)."""
        deadline = time.monotonic() + (SECONDS_TO_END if is_whole else SECONDS_TO_BREAK_OFF)
        for track in self._tracks:
            track.finish()
        for track in self._tracks:
            if not track.ended.wait(max(deadline - time.monotonic(), 0)):
                track.mute("it did not finish in time, so its record may be incomplete")
        self._report_muted()

    def _call(self, call: Call) -> None:
        for track in self._tracks:
            track.put(call)
        self._report_muted()

    def _report_muted(self) -> None:
        for track in self._tracks:
            reason = track.unreported_reason()
            if reason:
                self._report(f"{track.name}: {reason}; the training goes on without it")


def _nobody(_line: str) -> None:
    """Reports to nobody."""


class _Track:
    """One tracker, and the thread that runs its calls in order."""

    def __init__(self, name: str, tracker: Tracker) -> None:
        self.name = name
        self.started, self.ended = threading.Event(), threading.Event()
        self._tracker, self._waiting = tracker, 0
        self._reason: str | None = None
        self._is_reported = self._has_failed = False
        self._pool = ThreadPool(1)  # of daemons: a tracker that hangs must not keep the process alive

    def begin(self, settings: Settings) -> None:
        """Start the tracker."""
        self._submit(lambda tracker: tracker.start(settings), self.started)

    def put(self, call: Call) -> None:
        """Add a call without waiting; it is dropped if the tracker is muted or far behind."""
        if self._waiting >= MOST_WAITING:
            self.mute(f"it is {MOST_WAITING:,} calls behind")
        else:
            self._submit(call, None)

    def finish(self) -> None:
        """Add the last call."""
        self._submit(lambda tracker: tracker.end(), self.ended)
        self._pool.close()

    def mute(self, reason: str) -> None:
        """Call the tracker no more; the first reason counts."""
        self._reason = self._reason or reason

    def unreported_reason(self) -> str | None:
        """Why it is muted, once."""
        if self._reason is None or self._is_reported:
            return None
        self._is_reported = True
        return self._reason

    def _submit(self, call: Call, then: threading.Event | None) -> None:
        def done(error: BaseException | None) -> None:
            self._waiting -= 1
            if error is not None:
                self.mute(f"it failed ({type(error).__name__}: {' '.join(str(error).split())[:LONGEST_REASON]})")
            if then is not None:
                then.set()

        self._waiting += 1
        self._pool.apply_async(self._run, (call,), callback=done, error_callback=done)

    def _run(self, call: Call) -> None:
        """Runs in the pool's thread, and is never run again after a call that raised."""
        if self._reason is None and not self._has_failed:
            self._has_failed = True
            call(self._tracker)
            self._has_failed = False
