"""Each round is timed separately, warm-ups are not timed, and all get their number."""

import time

import torch

from bench.timing import seconds_each

CPU = torch.device("cpu")


def test_rounds_are_timed_one_by_one_after_the_warm_ups():
    numbers = []

    def task(number: int) -> None:
        numbers.append(number)
        time.sleep(0.05 if number == 3 else 0.0)

    seconds = seconds_each(task, CPU, warm_ups=2, rounds=3)
    assert numbers == [0, 1, 2, 3, 4]
    assert [value > 0.04 for value in seconds] == [False, True, False]
