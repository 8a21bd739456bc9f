"""The progress lines of a training, and a log that can no longer be written."""

import pytest

from lora.training import progress as progress_module
from lora.training.learning.history import StepNumbers
from lora.training.progress import Log, Progress
from tests.lora.training.trainers import a_log


def numbers(step, *, loss=0.5, preservation=None):
    """The numbers of a step with this smoothed loss."""
    return StepNumbers(step, 9.0, loss, 4e-4, 1.0, 0.5, preservation)


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test can set."""

    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    fake = Clock()
    monkeypatch.setattr(progress_module, "time", fake)
    return fake


def test_there_is_at_most_one_line_a_second_and_always_one_for_the_last_step(capsys):
    metrics = []
    progress = Progress(Log(lambda *metric: metrics.append(metric), None), steps=1000)
    for step in range(1, 1001):
        progress.report(numbers(step), 0.001)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 2
    assert lines[-1].startswith("step 1000/1000  loss 0.5000")
    assert lines[-1].endswith("0:00 left")
    assert metrics[-2:] == [("train.step", 1000), ("train.loss", 0.5)]


def test_time_between_steps_counts_neither_for_the_speed_nor_for_the_time_left(clock, capsys):
    progress = Progress(a_log(), steps=100)
    for step in range(1, 11):
        clock.now += 60  # two seconds for the step, the rest for samples
        progress.report(numbers(step), 2.0)
    assert capsys.readouterr().out.splitlines()[-1].endswith("2.00 s/step  3:00 left")


def test_a_resumed_training_knows_how_many_steps_are_left(clock, capsys):
    progress = Progress(a_log(), steps=1000)
    clock.now += 5
    progress.report(numbers(991), 1.0)
    assert capsys.readouterr().out.startswith("step 991/1000  loss 0.5000  lr 4.00e-04  1.00 s/step  0:09 left")


def test_the_loss_of_preservation_is_shown_from_the_first_step_that_has_one(clock, capsys):
    metrics = []
    progress = Progress(Log(lambda *metric: metrics.append(metric), None), steps=100)
    for step, preservation in enumerate([None, 0.02, None, 0.04], 1):
        clock.now += 5
        progress.report(numbers(step, preservation=preservation), 1.0)
    first, second, third, fourth = capsys.readouterr().out.splitlines()
    assert "preservation" not in first
    assert "loss 0.5000  preservation loss 2.00e-02  lr 4.00e-04  1.00 s" in second
    assert "preservation loss 2.00e-02" in third
    assert "preservation loss 3.00e-02" in fourth
    assert metrics[-1] == ("train.preservation_loss", 0.03)


def test_a_line_shows_the_smoothed_loss_and_not_that_of_the_step(clock, capsys):
    progress = Progress(a_log(), steps=100)
    clock.now += 5
    progress.report(numbers(1, loss=2.0), 1.0)
    assert "loss 2.0000" in capsys.readouterr().out


def test_a_closed_log_does_not_end_a_training(monkeypatch):
    """Case B: Cog closes the log of a job when the server shuts down."""

    def closed(*_args, **_options):
        raise BrokenPipeError

    log = Log(closed, None)
    assert not log.is_closed
    monkeypatch.setattr("builtins.print", closed)
    log.write("a line")
    assert log.is_closed
    other = Log(closed, None)
    other.record("train.loss", 1.0)
    assert other.is_closed
