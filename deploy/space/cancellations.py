"""Which visitors have cancelled their request. Knows no page.

gradio's own `cancels` also ends a request that the same visitor makes before the old one has ended (6.31).
"""

import threading


class Cancellations:
    """The requests that wait or run, at most one of each session, and whether they are cancelled. Thread-safe."""

    def __init__(self) -> None:
        self._cancelled: dict[str, threading.Event] = {}

    def begin(self, session: str) -> threading.Event:
        """Note that a request waits or runs, and return whether it is cancelled; may be called again for it."""
        return self._cancelled.setdefault(session, threading.Event())

    def cancel(self, session: str) -> bool:
        """Cancel the request of a session. Returns whether there is one."""
        cancelled = self._cancelled.get(session)
        if cancelled is not None:
            cancelled.set()
        return cancelled is not None

    def end(self, session: str) -> None:
        """Forget a request."""
        self._cancelled.pop(session, None)
