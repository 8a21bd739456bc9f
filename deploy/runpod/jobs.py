"""A job of RunPod, and what works on it. Knows neither RunPod's own package nor what is computed."""

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from deploy.runpod.answers import Answer
from deploy.runpod.inputs import Form

UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")
LONGEST_ID = 100


class CancelledError(RuntimeError):
    """The client has cancelled the job, or its time is over."""


@dataclass(slots=True)
class Job:
    """A job: what the client gave, where its progress goes, and whether it was cancelled."""

    id: str
    given: object
    report: Callable[[str], object]
    _is_cancelled: threading.Event = field(default_factory=threading.Event)
    _stop: Callable[[], object] | None = None

    @property
    def folder_name(self) -> str:
        """The id as the name of a folder."""
        return UNSAFE.sub("-", self.id)[:LONGEST_ID] or "job"

    def cancel(self) -> None:
        """Ask whoever works on the job to stop; may be called from any thread."""
        self._is_cancelled.set()
        self.stop()

    def stop(self) -> None:
        """Let a job that takes long end early and return what it has; others are not stopped."""
        if self._stop is not None:
            self._stop()

    def stop_with(self, stop: Callable[[], object]) -> None:
        """Call `stop` when the job is cancelled, or now if it was cancelled before."""
        self._stop = stop
        if self._is_cancelled.is_set():
            stop()

    def raise_if_cancelled(self) -> None:
        """Raise CancelledError if the job was cancelled."""
        if self._is_cancelled.is_set():
            raise CancelledError(f"job {self.id} was cancelled")


class Worker(Protocol):
    """What works on jobs, one at a time."""

    @property
    def form(self) -> Form:
        """The inputs of a job."""

    def answer(self, job: Job) -> Answer:
        """Do the job, and return its answer. Raises ValueError, OSError or RuntimeError with one sentence."""

    def must_restart(self, error: BaseException | None) -> bool:
        """Whether the process can do no further job, after this error or without one."""
