"""Every reason to stop is noticed, and nothing else counts as one."""

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from lora.training import stop as stop_module
from lora.training.progress import Log
from lora.training.stop import STOPPING, Stop, StopRequestedError, Termination
from script.cog_server import ROOT
from tests.lora.training.trainers import a_log

# Like Cog's worker: its main thread, which alone can run signal handlers, never runs Python again.
BLOCKED = """
import ctypes, os, signal, threading, time
from lora.training.stop import Termination
termination = Termination.install()
def job():
    with termination.during_job():
        time.sleep(0.5)  # until the main thread waits
        os.kill(os.getpid(), signal.SIGTERM)
        deadline = time.monotonic() + 5
        while not termination.received() and time.monotonic() < deadline:
            time.sleep(0.01)
        print(termination.received() == signal.SIGTERM, flush=True)
    os._exit(0)
threading.Thread(target=job).start()
mutex = ctypes.create_string_buffer(64)
lock = ctypes.CDLL(None).pthread_mutex_lock
lock(mutex)
lock(mutex)
"""
IGNORED = """
import os, signal
signal.signal(signal.SIGHUP, signal.SIG_IGN)
from lora.training.stop import Termination
termination = Termination.install()
with termination.during_job():
    os.kill(os.getpid(), signal.SIGHUP)
    print(termination.received())
"""
IDLE = """
import os, signal, time
from lora.training.stop import Termination
termination = Termination.install()
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
    """A Termination that is installed in this process."""
    before = {number: signal.getsignal(number) for number in STOPPING}
    yield Termination.install()
    signal.set_wakeup_fd(-1)
    for number, handler in before.items():
        signal.signal(number, handler)


def a_stop(**changes):
    return Stop(a_log(), Termination(), **{"minutes": None} | changes)


def test_a_time_limit_ends_the_steps_but_not_what_comes_after_them(monkeypatch):
    """So the LoRA of a training with a limit is uploaded, and that of a server that shuts down is not waited for."""
    stop = a_stop(minutes=1)
    monkeypatch.setattr(stop_module.time, "monotonic", lambda: time.perf_counter() + 1e9)
    assert stop.reason() == "time_limit of 1 minutes is over"
    assert stop.interruption() is None
    assert a_stop(server=SimpleNamespace(is_shutting_down=lambda: True)).interruption() == "the server is shutting down"


def test_without_a_reason_there_is_no_stop(tmp_path):
    stop = a_stop(minutes=1, stop_file=tmp_path / "stop")
    assert stop.reason() is None
    stop.raise_if_requested()


def test_the_time_limit_is_reached_after_its_minutes(monkeypatch):
    stop = a_stop(minutes=3)
    later = time.monotonic() + 3 * 60
    monkeypatch.setattr(stop_module.time, "monotonic", lambda: later - 1)
    assert stop.reason() is None
    monkeypatch.setattr(stop_module.time, "monotonic", lambda: later + 1)
    assert stop.reason() == "time_limit of 3 minutes is over"


def test_a_closed_log_is_a_reason_to_stop():
    def closed(_name, _value):
        raise BrokenPipeError

    log = Log(closed, None)
    stop = Stop(log, Termination(), minutes=None)
    assert stop.reason() is None
    log.record("train.loss", 1.0)
    assert stop.reason() == "the server is shutting down"


def test_another_process_can_request_a_stop_with_a_reason(tmp_path):
    stop_file = tmp_path / "stop"
    stop = a_stop(stop_file=stop_file)
    stop_file.write_text("it was cancelled")
    assert stop.reason() == "it was cancelled"
    with pytest.raises(StopRequestedError, match=r"^the training stopped: it was cancelled$"):
        stop.raise_if_requested()


def test_a_worker_process_stops_when_its_parent_process_is_gone(tmp_path, monkeypatch):
    """A process whose parent ends gets another parent. That is no reason in a single process, as a user may close the
    shell from which the training was started."""
    alone, worker = a_stop(), a_stop(stop_file=tmp_path / "stop")
    assert worker.reason() is None
    monkeypatch.setattr(os, "getppid", lambda: -1)
    assert worker.reason() == "the process that started this one is gone"
    assert alone.reason() is None


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_during_a_job_is_a_reason_to_stop_and_does_not_end_the_process(termination, number):
    """SIGTERM, and SIGHUP, which a terminal that is closed or an SSH connection that is lost sends."""
    stop = Stop(a_log(), termination, minutes=None)
    with termination.during_job():
        assert stop.reason() is None
        os.kill(os.getpid(), number)
        assert stop.reason() == f"{number.name} came"
        assert stop.reason() == f"{number.name} came", "the signal is remembered"


def test_a_sighup_that_is_ignored_stays_ignored():
    """As `nohup` starts a process."""
    assert run(IGNORED).stdout == "None\n"


def test_a_job_ignores_the_sigterm_of_the_job_before(termination):
    with termination.during_job():
        os.kill(os.getpid(), signal.SIGTERM)
    with termination.during_job():
        assert not termination.received()


def test_other_signals_do_not_count_as_sigterm(termination):
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        with termination.during_job():
            os.kill(os.getpid(), signal.SIGUSR1)
            assert not termination.received()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_sigterm_is_noticed_while_the_main_thread_runs_no_python():
    """Case B: in Cog's worker, no signal handler is ever called."""
    assert run(BLOCKED).stdout == "True\n"


def test_sigterm_ends_a_process_without_a_job():
    ended = run(IDLE)
    assert ended.returncode == -signal.SIGTERM
    assert ended.stdout == ""
