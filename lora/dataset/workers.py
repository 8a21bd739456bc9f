"""Work on threads whose results come in order. Pillow, libheif and PyTorch let go of the interpreter meanwhile."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_WORKERS = 4  # each may hold a whole image
AHEAD = 2  # results that wait for their turn, per worker
SECONDS_TO_FINISH = 1.0  # longer than most images take, shorter than a person waits for a cancelled job
SECONDS_BETWEEN_POLLS = 0.1  # Cog's cancellation reaches a thread only while that runs Python


def map_in_order(function: Callable[[Item], Result], items: Iterable[Item]) -> Generator[Result, None, None]:
    """function(item) for each item, in the order of the items, a few computed ahead.

    An error of the function is raised in its turn. Who stops listening waits for what has begun, but not long; what has
    not begun never will.
    """
    workers = min(os.cpu_count() or 1, MOST_WORKERS)
    pool = ThreadPoolExecutor(workers)
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > AHEAD * workers:
                yield _result(pending[0])
                pending.popleft()
        while pending:
            yield _result(pending[0])
            pending.popleft()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        wait(pending, timeout=SECONDS_TO_FINISH)  # or it would write into folders that are being cleared away


def _result(future: Future[Result]) -> Result:
    while not wait([future], timeout=SECONDS_BETWEEN_POLLS).done:
        pass
    return future.result()
