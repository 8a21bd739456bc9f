"""Reads files into the page cache of the operating system in the background. Knows no model."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import psutil

CHUNK_BYTES = 8 * 2**20  # the stop event is checked after each chunk


@contextmanager
def read_ahead(files: Sequence[Path]) -> Iterator[Thread]:
    """Read files in the given order in a background thread, until all are read or the block ends.

    This only saves time. Reading stops silently at a file that cannot be read: whoever loads that file reports the
    error. It also stops after half of the available memory, because the system would drop pages before they are used.
    """
    stop = Event()
    limit = psutil.virtual_memory().available // 2
    thread = Thread(target=_read, args=(files, limit, stop), name="reading ahead", daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        stop.set()
        thread.join()


def _read(files: Sequence[Path], limit: int, stop: Event) -> None:
    buffer = bytearray(CHUNK_BYTES)  # reused: the system caches the content, not this process
    remaining = limit
    try:
        for path in files:
            with path.open("rb", buffering=0) as file:
                while remaining > 0 and not stop.is_set() and (count := file.readinto(buffer)):
                    remaining -= count
    except OSError:
        return
