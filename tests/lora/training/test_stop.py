"""Every wish for an end is heard, and nothing else is taken for one."""

import os
import signal
import subprocess
import sys
import time

import pytest

from lora.training import stop as stop_module
from lora.training.progress import Log
from lora.training.stop import Stop, StopRequestedError, Termination
from script.cog_server import ROOT
from tests.lora.training.trainers import a_log

# As Cog's worker is: its main thread, which alone may run handlers of signals, never runs Python again.
BLOCKED = """
import ctypes, os, signal, threading, time
from lora.training.stop import Termination
termination = Termination.listening()
def job():
    with termination.during_job():
        time.sleep(0.5)  # until the main thread waits
        os.kill(os.getpid(), signal.SIGTERM)
        deadline = time.monotonic() + 5
        while not termination.was_received() and time.monotonic() < deadline:
            time.sleep(0.01)
        print(termination.was_received(), flush=True)
    os._exit(0)
threading.Thread(target=job).start()
mutex = ctypes.create_string_buffer(64)
lock = ctypes.CDLL(None).pthread_mutex_lock
lock(mutex)
lock(mutex)
"""
IDLE = """
import os, signal, time
from lora.training.stop import Termination
termination = Termination.listening()
with termination.during_job():
    pass
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(5)
print("still there")
"""


def run(program):
    return subprocess.run(
        [sys.executable, "-c", program], check=False, cwd=ROOT, capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def termination():
    """One that listens in this process."""
    before = signal.getsignal(signal.SIGTERM)
    yield Termination.listening()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, before)


def a_stop(**changes):
    return Stop(a_log(), Termination(), **{"minutes": None} | changes)


def test_without_a_reason_there_is_no_end(tmp_path):
    stop = a_stop(minutes=1, wish=tmp_path / "stop")
    assert stop.reason() is None
    stop.raise_if_requested()


def test_a_time_limit_is_over_after_so_many_minutes(monkeypatch):
    stop = a_stop(minutes=3)
    later = time.monotonic() + 3 * 60
    monkeypatch.setattr(stop_module.time, "monotonic", lambda: later - 1)
    assert stop.reason() is None
    monkeypatch.setattr(stop_module.time, "monotonic", lambda: later + 1)
    assert stop.reason() == "time_limit of 3 minutes is over"


def test_a_closed_log_is_a_reason():
    def closed(_name, _value):
        raise BrokenPipeError

    log = Log(closed)
    stop = Stop(log, Termination(), minutes=None)
    assert stop.reason() is None
    log.record("train.loss", 1.0)
    assert stop.reason() == "the server is shutting down"


def test_another_process_can_wish_for_an_end_and_say_why(tmp_path):
    wish = tmp_path / "stop"
    stop = a_stop(wish=wish)
    wish.write_text("it was cancelled")
    assert stop.reason() == "it was cancelled"
    with pytest.raises(StopRequestedError, match=r"^the training stopped: it was cancelled$"):
        stop.raise_if_requested()


def test_a_process_of_a_team_ends_with_the_one_that_started_it(tmp_path, monkeypatch):
    """Who starts a process and dies hands it to another; a person may well close the shell that they trained in."""
    alone, one_of_several = a_stop(), a_stop(wish=tmp_path / "stop")
    assert one_of_several.reason() is None
    monkeypatch.setattr(os, "getppid", lambda: -1)
    assert one_of_several.reason() == "the process that started this one is gone"
    assert alone.reason() is None


def test_sigterm_in_a_job_is_a_reason_and_not_the_end(termination):
    stop = Stop(a_log(), termination, minutes=None)
    with termination.during_job():
        assert stop.reason() is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.reason() == "SIGTERM came"
        assert stop.reason() == "SIGTERM came", "it is not forgotten"


def test_a_job_does_not_end_by_the_sigterm_of_the_one_before(termination):
    with termination.during_job():
        os.kill(os.getpid(), signal.SIGTERM)
    with termination.during_job():
        assert not termination.was_received()


def test_other_signals_are_not_taken_for_it(termination):
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        with termination.during_job():
            os.kill(os.getpid(), signal.SIGUSR1)
            assert not termination.was_received()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_sigterm_is_heard_while_the_main_thread_runs_no_python():
    """Case B: in Cog's worker no handler is ever called."""
    assert run(BLOCKED).stdout == "True\n"


def test_sigterm_ends_a_process_without_a_job():
    ended = run(IDLE)
    assert ended.returncode == -signal.SIGTERM
    assert ended.stdout == ""
