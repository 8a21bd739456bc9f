"""Trackers record what happens; one that fails, hangs or is slow ends no training and slows none."""

import threading
import time
from pathlib import Path

import pytest

from lora.reporting.trackers import trackers as trackers_module
from lora.reporting.trackers.choosing import TENSORBOARD_VARIABLE, VARIABLE, chosen_trackers
from lora.reporting.trackers.trackers import Trackers
from lora.reporting.trackers.wandb_run import WandbTarget
from tests.tiny import assert_one_sentence

SETTINGS = {"steps": 4}
NOWHERE = WandbTarget(None, "project", None, None)


class Kept:
    """A tracker that keeps what it gets, and raises or waits where it is told to."""

    def __init__(self, *, fails_at=None, waits_at=None):
        self.calls, self.fails_at, self.waits_at, self.released = [], fails_at, waits_at, threading.Event()

    def start(self, settings):
        self._record("start", settings)

    def numbers(self, step, values):
        self._record("numbers", step, values)

    def image(self, step, name, path):
        self._record("image", step, name, path)

    def end(self):
        self._record("end")

    def _record(self, name, *call):
        if name == self.waits_at:
            self.released.wait(30)
        self.calls.append((name, *call))
        if name == self.fails_at:
            raise RuntimeError("the server said\nno")


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(trackers_module, "SECONDS_TO_START", 0.3)
    monkeypatch.setattr(trackers_module, "SECONDS_TO_END", 0.3)


def recorded(**trackers):
    """What is reported about trackers in a training of two steps and an image, and how long it takes."""
    lines, all_of_them, began = [], Trackers(trackers), time.monotonic()
    with all_of_them.recording(SETTINGS, lines.append):
        all_of_them.numbers(1, {"loss": 0.5})
        all_of_them.image(1, "samples/TOK", Path("a.jpg"))
        time.sleep(0.05)  # of the training, in which a failure becomes known
        all_of_them.numbers(2, {"loss": 0.4})
    return lines, time.monotonic() - began


def test_a_tracker_gets_everything_in_order():
    kept = Kept()
    lines, _ = recorded(kept=kept)
    assert lines == []
    assert kept.calls == [
        ("start", SETTINGS),
        ("numbers", 1, {"loss": 0.5}),
        ("image", 1, "samples/TOK", Path("a.jpg")),
        ("numbers", 2, {"loss": 0.4}),
        ("end",),
    ]


@pytest.mark.parametrize("fails_at", ["start", "numbers", "image", "end"])
def test_a_tracker_that_fails_is_reported_once_and_called_no_more(fails_at):
    failing, other = Kept(fails_at=fails_at), Kept()
    lines, _ = recorded(failing=failing, other=other)
    assert lines == ["failing: it failed (RuntimeError: the server said no); the training goes on without it"]
    assert failing.calls[-1][0] == fails_at
    assert len(other.calls) == 5


@pytest.mark.parametrize(
    ("waits_at", "reason"),
    [("start", "it was not ready after 0 s"), ("numbers", "it did not finish in time"), ("end", "it did not finish")],
)
def test_a_tracker_that_hangs_holds_the_training_up_no_longer_than_the_limit(waits_at, reason):
    hanging = Kept(waits_at=waits_at)
    (line,), seconds = recorded(hanging=hanging)
    hanging.released.set()
    assert line.startswith(f"hanging: {reason}")
    assert seconds < 5


def test_a_cancelled_training_does_not_wait_for_a_tracker(monkeypatch):
    monkeypatch.setattr(trackers_module, "SECONDS_TO_END", 30)
    monkeypatch.setattr(trackers_module, "SECONDS_TO_BREAK_OFF", 0.1)
    hanging, began = Kept(waits_at="numbers"), time.monotonic()
    trackers = Trackers({"hanging": hanging})
    with pytest.raises(KeyboardInterrupt), trackers.recording(SETTINGS, lambda _line: None):
        trackers.numbers(1, {"loss": 0.5})
        raise KeyboardInterrupt
    assert time.monotonic() - began < 5
    hanging.released.set()


def test_a_tracker_that_is_far_behind_is_given_up_before_its_calls_fill_the_memory(monkeypatch):
    monkeypatch.setattr(trackers_module, "MOST_WAITING", 3)
    slow, lines = Kept(waits_at="numbers"), []
    trackers = Trackers({"slow": slow})
    with trackers.recording(SETTINGS, lines.append):
        for step in range(10):
            trackers.numbers(step, {"loss": 0.5})
        slow.released.set()
    assert lines == ["slow: it is 3 calls behind; the training goes on without it"]


def test_the_environment_names_the_trackers(monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, " TensorBoard,trackio, ")
    monkeypatch.setenv(TENSORBOARD_VARIABLE, str(tmp_path))
    assert list(chosen_trackers(NOWHERE)) == ["tensorboard", "trackio"]


def test_a_key_of_weights_and_biases_is_enough(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert list(chosen_trackers(NOWHERE)) == []
    assert list(chosen_trackers(WandbTarget("key", "project", None, None))) == ["wandb"]


def test_an_unknown_tracker_is_refused(monkeypatch):
    monkeypatch.setenv(VARIABLE, "mlflow")
    with pytest.raises(ValueError) as error:
        chosen_trackers(NOWHERE)
    assert_one_sentence(error.value, VARIABLE, "'mlflow'", "tensorboard, wandb, trackio")


def test_a_missing_package_is_refused_before_the_training(monkeypatch):
    monkeypatch.setattr("lora.reporting.trackers.choosing.find_spec", lambda _name: None)
    monkeypatch.setenv(VARIABLE, "trackio")
    with pytest.raises(ValueError) as error:
        chosen_trackers(NOWHERE)
    assert_one_sentence(error.value, "trackio is not installed", "pip install trackio")
