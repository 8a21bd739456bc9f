"""When a training has to end before its last step, and why. Knows nothing of what is trained."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from lora.training.progress import Log

SECONDS_OF_A_MINUTE = 60


class StopRequestedError(RuntimeError):
    """Ends what is not needed any more, such as half a sample."""


class Termination:
    """Whether the process was sent SIGTERM.

    Signals can be listened to from the main thread alone. In Cog's worker that thread never runs Python again after the
    import of train.py, so that no handler is called; but the signal's number is written to a socket, which any thread
    can look at. While there is no job, SIGTERM ends the process as ever.
    """

    def __init__(self) -> None:
        self._received, self._written = socket.socketpair()
        self._received.setblocking(False)
        self._written.setblocking(False)
        self._has_job = False
        self._has_come = False

    @classmethod
    def listening(cls) -> "Termination":
        """Listen from now on; from a thread other than the main one, hear nothing."""
        termination = cls()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, termination._handle)
            signal.set_wakeup_fd(termination._written.fileno(), warn_on_full_buffer=False)
        return termination

    @contextmanager
    def during_job(self) -> Iterator[None]:
        """A time in which SIGTERM is a wish, which is heeded at the end of a step."""
        self._has_job, self._has_come = True, False
        self._look()
        self._has_come = False
        try:
            yield
        finally:
            self._has_job = False

    def was_received(self) -> bool:
        """Whether SIGTERM came during the job."""
        self._look()
        return self._has_come

    def _look(self) -> None:
        with suppress(BlockingIOError):  # no signal came
            self._has_come |= signal.SIGTERM in self._received.recv(4096)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self._has_come = True
        if not self._has_job:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


class Stop:
    """All reasons for which a training ends early, but for being cancelled, which is an exception."""

    def __init__(self, log: Log, termination: Termination, *, minutes: int | None, wish: Path | None = None) -> None:
        """`wish` is a file that the process writes which started this one, when it wants it to stop."""
        self._log, self._termination, self._minutes, self._wish = log, termination, minutes, wish
        self._deadline = None if minutes is None else time.monotonic() + minutes * SECONDS_OF_A_MINUTE
        self._parent = os.getppid()

    def reason(self) -> str | None:
        """Why to stop, if there is a reason."""
        if self._termination.was_received():
            return "SIGTERM came"
        if self._log.is_closed:
            return "the server is shutting down"
        if self._wish is not None and self._wish.exists():
            return self._wish.read_text()
        if self._wish is not None and os.getppid() != self._parent:
            return "the process that started this one is gone"
        if self._deadline is not None and time.monotonic() > self._deadline:
            return f"time_limit of {self._minutes} minutes is over"
        return None

    def raise_if_requested(self) -> None:
        """Raises StopRequestedError if there is a reason to stop."""
        reason = self.reason()
        if reason:
            raise StopRequestedError(f"the training stopped: {reason}")
