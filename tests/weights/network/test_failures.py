"""When an attempt that was interrupted is made again, and when no more."""

import time
from dataclasses import replace

import pytest

from tests.services import SHORT_TIMEOUTS
from weights.network.failures import NotFound, TransientFailure, retry
from weights.network.network import NetworkTimeouts


def failing(times, **how):
    """An attempt that is interrupted so many times, and the numbers of the attempts made."""
    made = []

    def attempt(number):
        made.append(number)
        if len(made) <= times:
            raise TransientFailure("was cut off", **how)
        return "done"

    return attempt, made


def test_an_attempt_is_made_again_until_it_works():
    attempt, made = failing(3)
    assert retry(attempt, SHORT_TIMEOUTS) == "done"
    assert made == [0, 1, 2, 3]


def test_after_the_last_pause_the_interruption_is_the_error():
    attempt, made = failing(100)
    with pytest.raises(ValueError, match="was cut off, 6 times"):
        retry(attempt, SHORT_TIMEOUTS)
    assert len(made) == 6


def test_an_interruption_says_how_often_it_is_worth_it():
    attempt, made = failing(100, most=1)
    with pytest.raises(ValueError, match="was cut off, 2 times"):
        retry(attempt, SHORT_TIMEOUTS)
    assert len(made) == 2


def test_a_refusal_is_final():
    def attempt(_):
        raise NotFound("was not found")

    with pytest.raises(NotFound):
        retry(attempt, SHORT_TIMEOUTS)


def test_a_pause_that_would_pass_the_end_is_not_made():
    attempt, made = failing(100, pause=2.0)
    begun = time.monotonic()
    with pytest.raises(ValueError, match="was cut off"):
        retry(attempt, replace(SHORT_TIMEOUTS, whole=1))
    assert len(made) == 1
    assert time.monotonic() - begun < 1


def test_all_pauses_that_a_server_asks_for_are_one_minute_together(monkeypatch):
    """C25: five times the longest one would be five minutes of a prediction."""
    naps = []
    monkeypatch.setattr(time, "sleep", naps.append)
    attempt, made = failing(100, pause=25)
    with pytest.raises(ValueError, match="was cut off, 3 times"):
        retry(attempt, NetworkTimeouts())
    assert len(made) == 3
    assert sum(naps) == pytest.approx(50)


def test_a_long_pause_is_many_short_ones(monkeypatch):
    """Cog ends a job between two steps of Python, and not while one of them sleeps."""
    naps = []
    monkeypatch.setattr(time, "sleep", naps.append)
    attempt, _ = failing(1, pause=3)
    assert retry(attempt, replace(SHORT_TIMEOUTS, whole=60)) == "done"
    assert max(naps) <= 0.2
    assert sum(naps) == pytest.approx(3)


def test_a_pause_is_as_long_as_it_was_asked_for():
    attempt, _ = failing(1, pause=0.5)
    begun = time.monotonic()
    assert retry(attempt, SHORT_TIMEOUTS) == "done"
    assert 0.5 <= time.monotonic() - begun < 2
