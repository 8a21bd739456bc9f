"""A setup says how long it took, and which stage of it how long."""

import contextlib
import time

from lora.serving.setup_times import StageTimer


def test_each_stage_is_said_with_its_seconds_in_turn(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    stages = StageTimer("setup")
    with stages.stage("weights checked"):
        now[0] += 0.14
    now[0] += 1
    with stages.stage("base loaded"):
        now[0] += 11.02
    assert stages.line() == "setup: 12.2 s (weights checked 0.1 s, base loaded 11.0 s)"


def test_without_a_stage_there_is_only_the_whole():
    assert StageTimer("setup").line() == "setup: 0.0 s"


def test_a_stage_that_failed_is_not_said():
    stages = StageTimer("setup")
    with contextlib.suppress(ValueError), stages.stage("base loaded"):
        raise ValueError
    assert "base loaded" not in stages.line()


def test_seconds_are_those_of_a_clock():
    stages = StageTimer("setup")
    with stages.stage("a nap"):
        time.sleep(0.06)
    assert stages.line().startswith("setup: 0.1 s (a nap 0.1 s")
