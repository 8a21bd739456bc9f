"""How long things take on a device. A GPU's own clock is read, and nobody waits for it between rounds."""

import time
from collections.abc import Callable
from itertools import pairwise

import torch

Mark = torch.cuda.Event | float


def seconds_each(task: Callable[[int], object], device: torch.device, *, warm_ups: int = 0, rounds: int) -> list[float]:
    """The seconds of each round of `task`, which is told its number, warm-ups counted; together, all there were."""
    for number in range(warm_ups):
        task(number)
    wait_for(device)
    marks = [_mark(device)]
    for number in range(warm_ups, warm_ups + rounds):
        task(number)
        marks.append(_mark(device))
    wait_for(device)
    return [_between(one, other) for one, other in pairwise(marks)]


def wait_for(device: torch.device) -> None:
    """Until all that was asked of it is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def graphs_compiled() -> int:
    """By torch.compile in this process until now: a figure whose rounds add to it has compiling in it."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def _mark(device: torch.device) -> Mark:
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _between(one: Mark, other: Mark) -> float:
    if isinstance(one, float) and isinstance(other, float):
        return other - one
    assert not isinstance(one, float)
    assert not isinstance(other, float)
    return one.elapsed_time(other) / 1000  # milliseconds
