"""Time tasks on a device, by a GPU's own clock and without synchronizing between rounds."""

import time
from collections.abc import Callable
from itertools import pairwise

import torch

Timestamp = torch.cuda.Event | float


def seconds_each(task: Callable[[int], object], device: torch.device, *, warm_ups: int = 0, rounds: int) -> list[float]:
    """The seconds of each round, which add up to the total. `task` gets the number of its round, counting warm-ups."""
    for number in range(warm_ups):
        task(number)
    wait_for(device)
    timestamps = [_timestamp(device)]
    for number in range(warm_ups, warm_ups + rounds):
        task(number)
        timestamps.append(_timestamp(device))
    wait_for(device)
    return [_seconds_between(one, other) for one, other in pairwise(timestamps)]


def wait_for(device: torch.device) -> None:
    """Wait until the device has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _timestamp(device: torch.device) -> Timestamp:
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _seconds_between(one: Timestamp, other: Timestamp) -> float:
    if isinstance(one, float) and isinstance(other, float):
        return other - one
    assert not isinstance(one, float)
    assert not isinstance(other, float)
    return one.elapsed_time(other) / 1000  # milliseconds
