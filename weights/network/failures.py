"""The ways in which a request can fail, and retries. Knows no protocol.

Every message completes a sentence that starts with the reference.
"""

import random
import time
from collections.abc import Callable
from typing import TypeVar

from weights.network.network import NetworkTimeouts

Result = TypeVar("Result")
POLL_SECONDS = 0.2
JITTER = 0.25  # fraction of a delay, so that clients that failed together do not retry together


class NotFound(ValueError):  # noqa: N818 - a definite response, not an error of the request
    """The service does not have the requested file or model (404, 410)."""


class AccessDenied(ValueError):  # noqa: N818 - a definite response, not an error of the request
    """The service refuses this token, or wants one (401, 403)."""


class TransientFailure(Exception):  # noqa: N818 - a retry may succeed
    """A failure that may not occur again on a retry."""

    def __init__(self, text: str, *, retry_after: float | None = None, max_retries: int | None = None) -> None:
        """`retry_after`: the delay in seconds that the server requested; `max_retries`: how often a retry is useful."""
        super().__init__(text)
        self.retry_after = retry_after
        self.max_retries = max_retries


def retry(attempt: Callable[[int], Result], timeouts: NetworkTimeouts) -> Result:
    """Call `attempt` with 0, 1, 2, ... until it raises no TransientFailure, and return its result.

    Raises ValueError with the last failure when the retries or the time are used up.
    """
    end, waited = time.monotonic() + timeouts.total, 0.0
    for number in range(len(timeouts.retry_delays) + 1):
        try:
            return attempt(number)
        except TransientFailure as error:
            max_retries = error.max_retries if error.max_retries is not None else number + 1
            last = number >= min(len(timeouts.retry_delays), max_retries)
            delay = 0.0 if last else _delay(timeouts.retry_delays[number], error.retry_after)
            waited += delay
            if last or waited > timeouts.max_total_delay or time.monotonic() + delay > end:
                raise ValueError(f"{error}, {number + 1} times" if number else str(error)) from error
            _sleep(delay)
    raise AssertionError("the last attempt returns or raises")


def _sleep(seconds: float) -> None:
    """Sleep in short intervals: a job can be cancelled between two of them, but not during one."""
    while seconds > 0:
        time.sleep(min(seconds, POLL_SECONDS))
        seconds -= POLL_SECONDS


def _delay(default: float, retry_after: float | None) -> float:
    return default * (1 + JITTER * random.random()) if retry_after is None else retry_after
