"""The parallel map: results in order, computed a little ahead, and quickly stopped when the generator is closed."""

import ctypes
import itertools
import threading
import time

import pytest

from lora.dataset.workers import MAX_WORKERS, PREFETCH, SECONDS_TO_FINISH, map_in_order


class StoppedError(Exception):
    """Stands for the exception that Cog raises in the thread of a cancelled job."""


@pytest.fixture
def release():
    """An event that the workers wait for; it is set at the end of the test at the latest."""
    event = threading.Event()
    yield event
    event.set()


def test_results_are_in_the_order_of_the_items():
    def slow_at_first(number):
        time.sleep(0.05 if number < 2 else 0)
        return number * 10

    assert list(map_in_order(slow_at_first, range(30))) == [number * 10 for number in range(30)]


def test_no_items_give_no_results():
    assert list(map_in_order(str, [])) == []


def test_several_items_are_processed_concurrently():
    together = threading.Barrier(2)
    assert list(map_in_order(lambda _: together.wait(timeout=5) >= 0, range(2))) == [True, True]


def test_an_error_is_raised_in_place_of_its_result():
    results = map_in_order(lambda number: 10 // number, [5, 2, 0, 1])
    assert [next(results), next(results)] == [2, 5]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(results) == []


def test_an_error_of_the_items_is_raised():
    def items():
        yield 1
        raise StoppedError

    with pytest.raises(StoppedError):
        list(map_in_order(str, items()))


def test_items_are_consumed_only_a_little_ahead():
    taken = itertools.count()
    results = map_in_order(str, taken)
    assert [next(results) for _ in range(5)] == ["0", "1", "2", "3", "4"]
    assert next(taken) <= 5 + PREFETCH * MAX_WORKERS


def test_closing_the_generator_does_not_wait_long(release):
    started = []

    def call(number):
        started.append(number)
        return number == 0 or release.wait()

    results = map_in_order(call, range(100))
    assert next(results)
    start = time.monotonic()
    results.close()
    assert time.monotonic() - start < SECONDS_TO_FINISH + 0.5
    before = len(started)
    release.set()
    time.sleep(0.1)
    assert len(started) <= before + 1  # one call may have been scheduled already


def test_closing_the_generator_waits_for_calls_that_have_started():
    """Otherwise they could write into the folder of a job while it is deleted."""
    started, finished = [], []

    def call(number):
        started.append(number)
        time.sleep(0.1)
        finished.append(number)

    results = map_in_order(call, range(100))
    next(results)
    results.close()
    assert sorted(started) == sorted(finished)


def test_a_cancelled_job_stops_while_the_workers_are_busy(release):
    stopped_at = []

    def consume():
        try:
            list(map_in_order(lambda _: release.wait(), range(100)))
        except StoppedError:
            stopped_at.append(time.monotonic())

    thread = threading.Thread(target=consume)
    thread.start()
    time.sleep(0.3)
    start = time.monotonic()
    assert ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(StoppedError)) == 1
    thread.join(timeout=5)
    assert stopped_at
    assert stopped_at[0] - start < 2
