"""An ordered parallel map on threads. Pillow, libheif and PyTorch release the GIL."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_WORKERS = 4  # each may hold a full image in memory
PREFETCH = 2  # pending results per worker
SECONDS_TO_FINISH = 1.0  # longer than most images take, shorter than a user waits for a cancelled job
SECONDS_BETWEEN_POLLS = 0.1  # Cog can cancel a thread only while it executes Python code


def map_in_order(function: Callable[[Item], Result], items: Iterable[Item]) -> Generator[Result, None, None]:
    """Yield function(item) for each item, in the order of the items, and compute a few results ahead.

    An exception of the function is raised in place of its result. Closing the generator cancels the calls that have not
    started, and waits at most `SECONDS_TO_FINISH` for the others.
    """
    workers = min(os.cpu_count() or 1, MAX_WORKERS)
    pool = ThreadPoolExecutor(workers)
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > PREFETCH * workers:
                yield _result(pending[0])
                pending.popleft()
        while pending:
            yield _result(pending[0])
            pending.popleft()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        wait(pending, timeout=SECONDS_TO_FINISH)  # otherwise it might write into folders that are being deleted


def _result(future: Future[Result]) -> Result:
    while not wait([future], timeout=SECONDS_BETWEEN_POLLS).done:
        pass
    return future.result()
