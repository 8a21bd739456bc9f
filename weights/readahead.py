"""Read files into the memory that the system keeps them in, while something else is done. Knows no model."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import psutil

PIECE_BYTES = 8 * 2**20  # after each, it is asked whether to stop


@contextmanager
def read_ahead(files: Sequence[Path]) -> Iterator[Thread]:
    """Files are read in this order by a thread of its own, until all are or the block ends.

    It saves time and changes nothing: a file that cannot be read ends it, as does half of the free memory, beyond which
    the system would forget what was read before anybody asks for it. What is wrong with a file is said by who loads it.
    """
    stop = Event()
    most = psutil.virtual_memory().available // 2
    thread = Thread(target=_read, args=(files, most, stop), name="reading ahead", daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        stop.set()
        thread.join()


def _read(files: Sequence[Path], most: int, stop: Event) -> None:
    piece = bytearray(PIECE_BYTES)  # the same for all: the system keeps what was read, not we
    left = most
    try:
        for path in files:
            with path.open("rb", buffering=0) as file:
                while left > 0 and not stop.is_set() and (count := file.readinto(piece)):
                    left -= count
    except OSError:
        return
