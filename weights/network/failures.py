"""How asking another machine can fail, and when it is tried again. Knows no protocol.

Each text is the end of a sentence that begins with the reference.
"""

import random
import time
from collections.abc import Callable
from typing import TypeVar

from weights.network.network import NetworkTimeouts

Result = TypeVar("Result")
POLL_SECONDS = 0.2  # seconds
JITTER = 0.25  # of a pause, so that many who failed together do not come back together


class NotFound(ValueError):  # noqa: N818 - it is an answer
    """The service has no such thing (404, 410)."""


class TransientFailure(Exception):  # noqa: N818 - it is not over
    """It may work the next time."""

    def __init__(self, text: str, *, pause: float | None = None, most: int | None = None) -> None:
        """`pause`: seconds that the server asked for; `most`: how many repetitions are worth their time."""
        super().__init__(text)
        self.pause = pause
        self.most = most


def retry(attempt: Callable[[int], Result], patience: NetworkTimeouts) -> Result:
    """The result of the first attempt (called with its number, from 0) that is not interrupted.

    Raises ValueError with what interrupted the last one.
    """
    end, paused = time.monotonic() + patience.whole, 0.0
    for number in range(len(patience.pauses) + 1):
        try:
            return attempt(number)
        except TransientFailure as error:
            last = number >= min(len(patience.pauses), error.most if error.most is not None else number + 1)
            pause = 0.0 if last else _pause(patience.pauses[number], error.pause)
            paused += pause
            if last or paused > patience.max_retry_delay or time.monotonic() + pause > end:
                raise ValueError(f"{error}, {number + 1} times" if number else str(error)) from error
            _sleep(pause)
    raise AssertionError("the last attempt returns or raises")


def _sleep(seconds: float) -> None:
    """In naps, as a job can be ended between two of them and not during one."""
    while seconds > 0:
        time.sleep(min(seconds, POLL_SECONDS))
        seconds -= POLL_SECONDS


def _pause(usual: float, asked: float | None) -> float:
    return usual * (1 + JITTER * random.random()) if asked is None else asked
