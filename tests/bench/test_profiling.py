"""The summary of a profile counts what overlaps once, and finds the gaps and what costs most."""

import pytest
import torch

from bench.profiling import Activity, Gap, Kernel, profile_steps, summarize

MS = 1_000_000  # ns


def test_a_summary_has_the_busy_share_the_longest_gaps_and_the_costliest_kernels():
    activities = [
        Activity("copy", 1 * MS, 3 * MS),  # on another stream, at the same time
        Activity("product", 0, 4 * MS),
        Activity("norm", 5 * MS, 6 * MS),
        Activity("product", 9 * MS, 10 * MS),
    ]
    found = summarize(activities, seconds=0.010, steps=2)
    assert found.busy == pytest.approx(0.6)
    assert found.seconds == pytest.approx(0.005)
    assert found.gaps == [Gap(0.003, "norm", "product"), Gap(0.001, "product", "norm")]
    assert found.kernels == [
        Kernel("product", pytest.approx(0.0025), 1.0, pytest.approx(0.5)),
        Kernel("copy", pytest.approx(0.001), 0.5, pytest.approx(0.2)),
        Kernel("norm", pytest.approx(0.0005), 0.5, pytest.approx(0.1)),
    ]


def test_a_profile_sees_the_operations_of_a_cpu_in_each_step():
    x = torch.randn(64, 64)
    found = profile_steps(lambda: x @ x, torch.device("cpu"), steps=3)
    assert {kernel.name: kernel.calls for kernel in found.kernels}["aten::mm"] == 1
    assert 0 < found.busy <= 1


def test_a_profile_of_nothing_is_an_error():
    with pytest.raises(RuntimeError, match="saw nothing run"):
        summarize([], seconds=1.0, steps=1)
