"""The benchmark of the training step: its table, and how it handles running out of memory."""

import pytest

from bench import train_step
from bench.random_flux import tiny_sizes
from bench.step_arms import ARMS, BASELINE
from bench.train_step import Extent, Measurement, Refused, as_markdown, measure


def measurement(arm: str, *seconds: float, loss: float = 2.0) -> Measurement:
    return Measurement(arm, 1024, loss, 20.0, [9.0], list(seconds), 0, 30_000_000_000, None, None)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_compares_medians_with_the_baseline_and_the_floor_of_1024_pixels():
    measurements = [
        measurement(BASELINE.name, 0.7, 0.9),
        measurement("ours bf16", 0.4),
        measurement(BASELINE.name, 0.8),
        measurement("ours bf16", 0.4),
    ]
    _, _, baseline, ours = as_markdown(measurements, batch_size=1).splitlines()
    assert cells(baseline)[2:5] == ["0.800", "0.700 to 0.900", "1.00"]
    assert cells(ours)[2:] == ["0.400", "0.400 to 0.400", "2.00", "1.85", "30.0 GB", "2.00000 (+0.000 %)"]


def test_four_images_have_four_times_the_floor():
    ours = as_markdown([measurement("ours bf16", 0.8)], batch_size=4).splitlines()[-1]
    assert cells(ours)[5] == "0.92"


def test_an_arm_that_runs_out_of_memory_is_reported(monkeypatch: pytest.MonkeyPatch):
    extent = Extent((64,), 1, ARMS, warm_ups=1, least_rounds=1, most_rounds=1, seconds=0.0)

    def full(*_: object) -> None:
        raise RuntimeError("CUDA error: out of memory")

    def broken(*_: object) -> None:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(train_step, "set_up_training", full)
    assert measure(BASELINE, tiny_sizes(), extent, None) == [Refused(BASELINE.name, None, "out of memory")]
    monkeypatch.setattr(train_step, "set_up_training", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        measure(BASELINE, tiny_sizes(), extent, None)
