"""Reasons to end a training before its last step. Knows nothing of what is trained."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from lora.parent_server import ParentServer
from lora.training.progress import Log

SECONDS_OF_A_MINUTE = 60


class StopRequestedError(RuntimeError):
    """Raised to end work that is no longer needed, such as a half-finished sample."""


class Termination:
    """Whether the process received SIGTERM during a job.

    Only the main thread can install signal handlers. In Cog's worker that thread runs no Python after the import of
    train.py, so no handler is ever called; but Python writes the signal's number to a socket (`signal.set_wakeup_fd`),
    which any thread can read. While no job runs, SIGTERM ends the process as usual.
    """

    def __init__(self) -> None:
        self._received, self._written = socket.socketpair()
        self._received.setblocking(False)
        self._written.setblocking(False)
        self._has_job = False
        self._was_received = False

    @classmethod
    def install(cls) -> "Termination":
        """Install the signal handler. In a thread other than the main thread, this does nothing."""
        termination = cls()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, termination._handle)
            signal.set_wakeup_fd(termination._written.fileno(), warn_on_full_buffer=False)
        return termination

    @contextmanager
    def during_job(self) -> Iterator[None]:
        """A context in which SIGTERM only requests a stop, which takes effect at the end of a step."""
        self._has_job, self._was_received = True, False
        self._read_signals()
        self._was_received = False
        try:
            yield
        finally:
            self._has_job = False

    def was_received(self) -> bool:
        """Whether SIGTERM came during the job."""
        self._read_signals()
        return self._was_received

    def _read_signals(self) -> None:
        with suppress(BlockingIOError):  # there was no signal
            self._was_received |= signal.SIGTERM in self._received.recv(4096)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self._was_received = True
        if not self._has_job:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


class Stop:
    """All reasons to end a training early. Cancellation is not one of them: it is an exception."""

    def __init__(
        self,
        log: Log,
        termination: Termination,
        *,
        minutes: int | None,
        server: ParentServer | None = None,
        stop_file: Path | None = None,
    ) -> None:
        """`server` is the server whose request this process handles. `stop_file` is a file that the parent process
        writes to stop this process; its content is the reason."""
        self._log, self._termination, self._minutes, self._stop_file = log, termination, minutes, stop_file
        self._server = server
        self._deadline = None if minutes is None else time.monotonic() + minutes * SECONDS_OF_A_MINUTE
        self._parent = os.getppid()

    def reason(self) -> str | None:
        """The reason to stop, or None."""
        if self._termination.was_received():
            return "SIGTERM came"
        if self._log.is_closed or (self._server is not None and self._server.is_shutting_down()):
            return "the server is shutting down"
        if self._stop_file is not None and self._stop_file.exists():
            return self._stop_file.read_text()
        if self._stop_file is not None and os.getppid() != self._parent:
            return "the process that started this one is gone"
        if self._deadline is not None and time.monotonic() > self._deadline:
            return f"time_limit of {self._minutes} minutes is over"
        return None

    def raise_if_requested(self) -> None:
        """Raise StopRequestedError if there is a reason to stop."""
        reason = self.reason()
        if reason:
            raise StopRequestedError(f"the training stopped: {reason}")
