"""Work on threads: in order, a little ahead, and soon left by whoever stops listening."""

import ctypes
import itertools
import threading
import time

import pytest

from lora.dataset.workers import AHEAD, MOST_WORKERS, SECONDS_TO_FINISH, map_in_order


class StoppedError(Exception):
    """What Cog raises in a thread whose job was cancelled."""


@pytest.fixture
def gate():
    """An event that the workers wait for, set at the end at the latest."""
    event = threading.Event()
    yield event
    event.set()


def test_results_come_in_the_order_of_the_items():
    def slow_at_first(number):
        time.sleep(0.05 if number < 2 else 0)
        return number * 10

    assert list(map_in_order(slow_at_first, range(30))) == [number * 10 for number in range(30)]


def test_no_items_give_no_results():
    assert list(map_in_order(str, [])) == []


def test_several_are_worked_on_at_once():
    together = threading.Barrier(2)
    assert list(map_in_order(lambda _: together.wait(timeout=5) >= 0, range(2))) == [True, True]


def test_an_error_is_raised_in_its_turn():
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


def test_endless_items_are_taken_only_a_little_ahead():
    taken = itertools.count()
    results = map_in_order(str, taken)
    assert [next(results) for _ in range(5)] == ["0", "1", "2", "3", "4"]
    assert next(taken) <= 5 + AHEAD * MOST_WORKERS


def test_whoever_stops_listening_does_not_wait_long(gate):
    begun = []

    def work(number):
        begun.append(number)
        return number == 0 or gate.wait()

    results = map_in_order(work, range(100))
    assert next(results)
    start = time.monotonic()
    results.close()
    assert time.monotonic() - start < SECONDS_TO_FINISH + 0.5
    before = len(begun)
    gate.set()
    time.sleep(0.1)
    assert len(begun) <= before + 1  # one may have been between the queue and its first line


def test_what_has_begun_is_finished_before_whoever_stops_listening_goes_on():
    """So that nothing is written any more where a job is being cleared away."""
    begun, finished = [], []

    def work(number):
        begun.append(number)
        time.sleep(0.1)
        finished.append(number)

    results = map_in_order(work, range(100))
    next(results)
    results.close()
    assert sorted(begun) == sorted(finished)


def test_a_cancelled_job_leaves_while_the_workers_are_busy(gate):
    left = []

    def consume():
        try:
            list(map_in_order(lambda _: gate.wait(), range(100)))
        except StoppedError:
            left.append(time.monotonic())

    thread = threading.Thread(target=consume)
    thread.start()
    time.sleep(0.3)
    start = time.monotonic()
    assert ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(StoppedError)) == 1
    thread.join(timeout=5)
    assert left
    assert left[0] - start < 2
