"""Which failed attempts are retried, and when retries end."""

import time
from dataclasses import replace

import pytest

from tests.services import SHORT_TIMEOUTS
from weights.network.failures import NotFound, Patience, TransientFailure, retry
from weights.network.network import Network, NetworkTimeouts


def failing(failures, **options):
    """An attempt that fails this many times, and the list of the numbers with which it is called."""
    attempts = []

    def attempt(number):
        attempts.append(number)
        if len(attempts) <= failures:
            raise TransientFailure("was cut off", **options)
        return "done"

    return attempt, attempts


def test_an_attempt_is_repeated_until_it_succeeds():
    attempt, attempts = failing(3)
    assert retry(attempt, SHORT_TIMEOUTS) == "done"
    assert attempts == [0, 1, 2, 3]


def test_after_the_last_retry_the_failure_is_the_error():
    attempt, attempts = failing(100)
    with pytest.raises(ValueError, match="was cut off, 6 times"):
        retry(attempt, SHORT_TIMEOUTS)
    assert len(attempts) == 6


def test_a_failure_can_limit_its_retries():
    attempt, attempts = failing(100, max_retries=1)
    with pytest.raises(ValueError, match="was cut off, 2 times"):
        retry(attempt, SHORT_TIMEOUTS)
    assert len(attempts) == 2


def test_a_refusal_is_not_retried():
    def attempt(_):
        raise NotFound("was not found")

    with pytest.raises(NotFound):
        retry(attempt, SHORT_TIMEOUTS)


def test_a_delay_beyond_the_total_timeout_is_not_waited_for():
    attempt, attempts = failing(100, retry_after=2.0)
    started = time.monotonic()
    with pytest.raises(ValueError, match="was cut off"):
        retry(attempt, replace(SHORT_TIMEOUTS, total=1))
    assert len(attempts) == 1
    assert time.monotonic() - started < 1


def test_the_delays_that_a_server_requests_are_limited_to_one_minute_together(monkeypatch):
    """C25: five of the longest delays would take five minutes of a prediction."""
    delays = []
    monkeypatch.setattr(time, "sleep", delays.append)
    attempt, attempts = failing(100, retry_after=25)
    with pytest.raises(ValueError, match="was cut off, 3 times"):
        retry(attempt, NetworkTimeouts())
    assert len(attempts) == 3
    assert sum(delays) == pytest.approx(50)


def test_a_long_delay_is_divided_into_short_ones(monkeypatch):
    """Cog cancels a job between two instructions of Python, not during a sleep."""
    delays = []
    monkeypatch.setattr(time, "sleep", delays.append)
    attempt, _ = failing(1, retry_after=3)
    assert retry(attempt, replace(SHORT_TIMEOUTS, total=60)) == "done"
    assert max(delays) <= 0.2
    assert sum(delays) == pytest.approx(3)


def test_a_delay_is_as_long_as_the_server_requests():
    attempt, _ = failing(1, retry_after=0.5)
    started = time.monotonic()
    assert retry(attempt, SHORT_TIMEOUTS) == "done"
    assert 0.5 <= time.monotonic() - started < 2


class Clock:
    """A clock that only moves when something waits."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "sleep", self.wait)

    def wait(self, seconds):
        self.now += seconds


def test_attempts_silences_and_pauses_share_one_budget(monkeypatch):
    """Six attempts of a silent host took 218 seconds, where the limit is one minute."""
    clock, attempts = Clock(monkeypatch), []
    patience = Patience(NetworkTimeouts())

    def silent(number):
        attempts.append(number)
        clock.wait(patience.limited(Network()).timeouts.read)
        raise TransientFailure("got no response from h.example")

    with pytest.raises(ValueError) as error:
        retry(silent, NetworkTimeouts(), patience)
    assert len(attempts) == 2
    assert clock.now == pytest.approx(60, abs=0.5)
    message = "got no response from h.example, 2 times; this program gave up after waiting for 60 s"
    assert str(error.value) == message


def test_time_in_which_data_arrives_is_not_counted(monkeypatch):
    """A download of ten minutes may still be resumed after each of five interruptions."""
    clock, attempts = Clock(monkeypatch), []
    patience = Patience(NetworkTimeouts())

    def interrupted(number):
        attempts.append(number)
        clock.wait(100)
        patience.receive()
        clock.wait(2)
        if number < 5:
            raise TransientFailure("was cut off")
        return "done"

    assert retry(interrupted, NetworkTimeouts(), patience) == "done"
    assert len(attempts) == 6


def test_timeouts_are_never_longer_than_what_is_left(monkeypatch):
    clock = Clock(monkeypatch)
    patience = Patience(NetworkTimeouts())
    assert patience.limited(Network()) == Network()
    clock.wait(57)
    timeouts = patience.limited(Network()).timeouts
    assert (timeouts.connect, timeouts.read, timeouts.max_total_delay) == (3, 3, 3)
    clock.wait(100)
    assert patience.limited(Network()).timeouts.read > 0
