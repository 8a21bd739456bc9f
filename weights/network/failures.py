"""The ways in which a request can fail, and retries. Knows no protocol.

Every message completes a sentence that starts with the reference.
"""

import random
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from weights.network.network import Network, NetworkTimeouts

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


class Patience:
    """How much longer to wait for one download or response: silences of the server, failed attempts and the pauses
    between them together. Time in which data arrives does not count."""

    def __init__(self, timeouts: NetworkTimeouts) -> None:
        self._timeouts = timeouts
        self._waited = 0.0  # seconds before `_since`
        self._since = time.monotonic()

    @property
    def waited(self) -> float:
        """Seconds so far."""
        return self._waited + time.monotonic() - self._since

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self._timeouts.max_total_delay - self.waited

    def receive(self) -> None:
        """Data has arrived: the time since the attempt began, or since the last data, does not count."""
        self._since = time.monotonic()

    def fail(self) -> None:
        """An attempt has failed: the time since its last data counts."""
        self._waited, self._since = self.waited, time.monotonic()

    def pause(self, seconds: float) -> None:
        """Wait between two attempts."""
        self._waited += seconds
        _sleep(seconds)
        self._since = time.monotonic()

    def limited(self, network: Network) -> Network:
        """The network for the next attempt, whose timeouts are at most what is left."""
        left = max(self.left, POLL_SECONDS)
        timeouts = network.timeouts
        shorter = replace(
            timeouts, connect=min(timeouts.connect, left), read=min(timeouts.read, left), max_total_delay=left
        )
        return replace(network, timeouts=shorter)


def retry(attempt: Callable[[int], Result], timeouts: NetworkTimeouts, patience: Patience | None = None) -> Result:
    """Call `attempt` with 0, 1, 2, ... until it raises no TransientFailure, and return its result.

    Raises ValueError with the last failure when the retries, the time or the patience are used up. An attempt uses
    `patience.limited`, so that it does not last longer than the patience.
    """
    patience = patience or Patience(timeouts)
    end = time.monotonic() + timeouts.total
    for number in range(len(timeouts.retry_delays) + 1):
        try:
            return attempt(number)
        except TransientFailure as error:
            patience.fail()
            max_retries = error.max_retries if error.max_retries is not None else number + 1
            last = number >= min(len(timeouts.retry_delays), max_retries)
            delay = 0.0 if last else _delay(timeouts.retry_delays[number], error.retry_after)
            if last or delay > patience.left + POLL_SECONDS or time.monotonic() + delay > end:
                raise ValueError(_last_failure(error, number + 1, patience.waited)) from error
            patience.pause(delay)
    raise AssertionError("the last attempt returns or raises")


def _last_failure(error: TransientFailure, attempts: int, seconds: float) -> str:
    times = f", {attempts} times" if attempts > 1 else ""
    waited = f"; this program gave up after waiting for {seconds:.0f} s" if round(seconds) else ""
    return f"{error}{times}{waited}"


def _sleep(seconds: float) -> None:
    """Sleep in short intervals: a job can be cancelled between two of them, but not during one."""
    while seconds > 0:
        time.sleep(min(seconds, POLL_SECONDS))
        seconds -= POLL_SECONDS


def _delay(default: float, retry_after: float | None) -> float:
    return default * (1 + JITTER * random.random()) if retry_after is None else retry_after
