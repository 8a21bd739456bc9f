"""The time of a setup and of each of its stages."""

import contextlib
import time

from lora.serving.setup_times import StageTimer


def test_each_stage_is_listed_with_its_seconds_in_order(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    timer = StageTimer("setup")
    with timer.stage("weights checked"):
        now[0] += 0.14
    now[0] += 1
    with timer.stage("base loaded"):
        now[0] += 11.02
    assert timer.line() == "setup: 12.2 s (weights checked 0.1 s, base loaded 11.0 s)"


def test_without_stages_only_the_total_is_listed():
    assert StageTimer("setup").line() == "setup: 0.0 s"


def test_a_failed_stage_is_not_listed():
    timer = StageTimer("setup")
    with contextlib.suppress(ValueError), timer.stage("base loaded"):
        raise ValueError
    assert "base loaded" not in timer.line()


def test_seconds_are_real_time():
    timer = StageTimer("setup")
    with timer.stage("a nap"):
        time.sleep(0.06)
    assert timer.line().startswith("setup: 0.1 s (a nap 0.1 s")
