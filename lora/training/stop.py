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
STOPPING = (signal.SIGTERM, signal.SIGHUP)


class StopRequestedError(RuntimeError):
    """Raised to end work that is no longer needed, such as a half-finished sample."""


class Termination:
    """Whether the process received SIGTERM, or SIGHUP of a terminal that was closed, during a job.

    Only the main thread can install signal handlers. In Cog's worker that thread runs no Python after the import of
    train.py, so no handler is ever called; but Python writes the signal's number to a socket (`signal.set_wakeup_fd`),
    which any thread can read. While no job runs, these signals end the process as usual.
    """

    def __init__(self) -> None:
        self._received, self._written = socket.socketpair()
        self._received.setblocking(False)
        self._written.setblocking(False)
        self._has_job = False
        self._received_signal: signal.Signals | None = None

    @classmethod
    def install(cls) -> "Termination":
        """Install the signal handler. In a thread other than the main thread, this does nothing; a SIGHUP that is
        ignored, as `nohup` has it, stays so."""
        termination = cls()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, termination._handle)
            if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
                signal.signal(signal.SIGHUP, termination._handle)
            signal.set_wakeup_fd(termination._written.fileno(), warn_on_full_buffer=False)
        return termination

    @contextmanager
    def during_job(self) -> Iterator[None]:
        """A context in which a signal only requests a stop, which takes effect at the end of a step."""
        self._has_job = True
        self._read_signals()
        self._received_signal = None
        try:
            yield
        finally:
            self._has_job = False

    def received(self) -> signal.Signals | None:
        """The signal that came during the job, if one came."""
        self._read_signals()
        return self._received_signal

    def _read_signals(self) -> None:
        with suppress(BlockingIOError):  # there was no signal
            for number in self._received.recv(4096):
                if number in STOPPING:
                    self._received_signal = self._received_signal or signal.Signals(number)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self._received_signal = self._received_signal or signal.Signals(number)
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
        if interruption := self.interruption():
            return interruption
        if self._deadline is not None and time.monotonic() > self._deadline:
            return f"time_limit of {self._minutes} minutes is over"
        return None

    def interruption(self) -> str | None:
        """The reason to return what there is at once, or None: one that ends this process soon."""
        if received := self._termination.received():
            return f"{received.name} came"
        if self._log.is_closed or (self._server is not None and self._server.is_shutting_down()):
            return "the server is shutting down"
        if self._stop_file is not None and self._stop_file.exists():
            return self._stop_file.read_text()
        if self._stop_file is not None and os.getppid() != self._parent:
            return "the process that started this one is gone"
        return None

    def raise_if_requested(self) -> None:
        """Raise StopRequestedError if there is a reason to stop."""
        reason = self.reason()
        if reason:
            raise StopRequestedError(f"the training stopped: {reason}")
