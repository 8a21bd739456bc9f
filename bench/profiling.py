"""Where the time of a training step goes: how busy the GPU is, the longest gaps, and the costliest kernels.

On a CPU the same is found of its operations, each of which includes those that it calls.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from bench.timing import wait_for

MOST_GAPS, MOST_KERNELS = 5, 10
LONGEST_NAME = 100  # characters; those of templates have thousands


@dataclass(frozen=True, slots=True)
class Activity:
    """A kernel, a copy or, on a CPU, an operation."""

    name: str
    start: int  # ns
    end: int


@dataclass(frozen=True, slots=True)
class Gap:
    """A time in which the device did nothing."""

    seconds: float
    after: str  # what ended before it
    before: str


@dataclass(frozen=True, slots=True)
class Kernel:
    """All calls of one kernel."""

    name: str
    seconds: float  # per step
    calls: float  # per step
    share: float  # of the wall time


@dataclass(frozen=True, slots=True)
class Profile:
    """The summary of some steps."""

    steps: int
    seconds: float  # of wall time per step, with the profiler
    busy: float  # share of the wall time in which anything ran on the device
    gaps: list[Gap]  # the longest, the longest first
    kernels: list[Kernel]  # the costliest, the costliest first


def profile_steps(step: Callable[[], object], device: torch.device, *, steps: int) -> Profile:
    """Profile some steps, which should be compiled already."""
    is_gpu = device.type == "cuda"
    wait_for(device)
    # without the host's operations, as they slow the host down and would make the GPU wait
    with profile(activities=[ProfilerActivity.CUDA if is_gpu else ProfilerActivity.CPU], acc_events=True) as profiler:
        began = time.perf_counter()
        for _ in range(steps):
            step()
        wait_for(device)
        seconds = time.perf_counter() - began
    results: Any = profiler.profiler
    wanted = torch.autograd.DeviceType.CUDA if is_gpu else torch.autograd.DeviceType.CPU
    found = [
        Activity(each.name()[:LONGEST_NAME], each.start_ns(), each.end_ns())
        for each in results.kineto_results.events()
        if each.device_type() == wanted and not each.is_user_annotation()
    ]
    return summarize(found, seconds=seconds, steps=steps)


def summarize(activities: Sequence[Activity], *, seconds: float, steps: int) -> Profile:
    """Summarize what ran in so many seconds and steps. Activities may overlap. Raises RuntimeError if nothing ran."""
    if not activities:
        raise RuntimeError("the profiler saw nothing run on the device: expected kernels of a training step")
    busy, gaps = _busy_and_gaps(sorted(activities, key=lambda each: each.start))
    longest = sorted(gaps, key=lambda gap: -gap.seconds)[:MOST_GAPS]
    return Profile(steps, seconds / steps, busy / seconds, longest, _kernels(activities, seconds, steps))


def _busy_and_gaps(ordered: Sequence[Activity]) -> tuple[float, list[Gap]]:
    """The seconds in which anything ran, and the gaps between."""
    last, busy, gaps = ordered[0], ordered[0].end - ordered[0].start, []
    for each in ordered[1:]:
        if each.start > last.end:
            gaps.append(Gap((each.start - last.end) / 1e9, last.name, each.name))
        busy += max(0, each.end - max(each.start, last.end))
        last = max(last, each, key=lambda one: one.end)
    return busy / 1e9, gaps


def _kernels(activities: Sequence[Activity], seconds: float, steps: int) -> list[Kernel]:
    by_name: dict[str, list[int]] = defaultdict(list)
    for each in activities:
        by_name[each.name].append(each.end - each.start)
    kernels = [
        Kernel(name, sum(each) / 1e9 / steps, len(each) / steps, sum(each) / 1e9 / seconds)
        for name, each in by_name.items()
    ]
    return sorted(kernels, key=lambda kernel: -kernel.seconds)[:MOST_KERNELS]
