"""A job that is cancelled while it starts threads ends, because the threads are started elsewhere."""

import runpy
import subprocess
import sys
import threading

import pytest

from lora.threads import protect_new_threads
from script.cog_server import ROOT
from tests.warm_process import FORKING

PROTECTED = "from lora.threads import protect_new_threads; protect_new_threads()\n"
JOBS_THAT_ARE_CANCELLED = """
import ctypes, threading, time

class Cancelled(BaseException):
    pass

def job():
    try:
        while True:
            threading.Thread(target=int).start()
    except Cancelled:
        ended.set()

for _ in range(300):
    ended = threading.Event()
    thread = threading.Thread(target=job, daemon=True)
    thread.start()
    time.sleep(0.002)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(Cancelled))
    assert ended.wait(5), "a job does not end"
"""
THREAD_IN_A_FORKED_PROCESS = """
import os, threading

if os.fork() == 0:
    threading.Thread(target=os._exit, args=[7]).start()
    threading.Event().wait()
assert os.waitstatus_to_exitcode(os.wait()[1]) == 7
"""
THREAD_THAT_CANNOT_BE_STARTED = """
import threading

thread = threading.Thread(target=int)
thread.start()
try:
    thread.start()
except RuntimeError as error:
    assert str(error) == "threads can only be started once"
else:
    raise AssertionError("it was started twice")
threading.Thread(target=int).start()
"""


@pytest.mark.xdist_group("warm")
@pytest.mark.parametrize("entry", ["train", "predict"])
def test_threads_are_protected_on_both_roads(entry):
    """In a forked process, which has all modules but is not protected yet."""
    process = FORKING.Process(target=run_entry, args=(entry,))
    process.start()
    process.join(60)
    assert process.exitcode == 0


def run_entry(entry: str) -> None:
    assert threading.Thread.start.__module__ == "threading"
    protect_new_threads.cache_clear()
    runpy.run_path(str(ROOT / f"{entry}.py"), run_name=entry)
    assert threading.Thread.start.__module__ == ("lora.threads" if sys.version_info < (3, 12) else "threading")


def test_a_job_that_is_cancelled_while_it_starts_threads_ends():
    output_of(PROTECTED + JOBS_THAT_ARE_CANCELLED)


def test_a_forked_process_can_start_threads():
    output_of(PROTECTED + THREAD_IN_A_FORKED_PROCESS)


def test_a_thread_that_cannot_be_started_raises_the_error_in_its_caller():
    output_of(PROTECTED + THREAD_THAT_CANNOT_BE_STARTED)


def output_of(script: str) -> str:
    """The output of a script in a process of its own, which must succeed."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
