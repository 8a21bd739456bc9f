"""Starts threads so that the cancellation of a job cannot strike them. Knows no job."""

import os
import sys
import threading
from functools import cache
from queue import SimpleQueue


@cache
def protect_new_threads() -> None:
    """From now on, let a thread that runs no job start all other threads. Not needed from Python 3.12 on.

    Cog cancels a job by an exception that Python raises in the job's thread (`PyThreadState_SetAsyncExc`). Up to
    Python 3.11, a thread that is being started has, at first, the number of the thread that starts it. So it may get
    the exception instead, and die before it has begun, while the job waits for ever for it to begin. Libraries start
    threads too: this replaces `threading.Thread.start` itself.
    """
    if sys.version_info >= (3, 12):
        return
    start = threading.Thread.start
    requests: SimpleQueue[tuple[threading.Thread, SimpleQueue[Exception | None]]] = SimpleQueue()

    def start_elsewhere(thread: threading.Thread) -> None:
        result: SimpleQueue[Exception | None] = SimpleQueue()  # unlike `Event`, never left locked by an exception
        requests.put((thread, result))
        error = result.get()
        if error is not None:
            raise error

    def start_requested() -> None:
        while True:
            thread, result = requests.get()
            try:
                start(thread)
                result.put(None)
            except (RuntimeError, MemoryError) as error:
                result.put(error)

    def restore() -> None:
        threading.Thread.start = start  # type: ignore[method-assign]

    start(threading.Thread(target=start_requested, name="starts threads", daemon=True))
    threading.Thread.start = start_elsewhere  # type: ignore[method-assign, assignment]
    os.register_at_fork(after_in_child=restore)  # a forked process has none of the threads
