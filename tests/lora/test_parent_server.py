"""A worker notices the end of its server, and a server ends with its worker."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import psutil
import pytest

from lora.parent_server import ParentServer
from script.cog_server import ROOT

WORKER = """
import sys
from lora import parent_server
parent_server.SECONDS_TO_END = int(sys.argv[1])
parent_server.ParentServer().end_if_this_process_dies()
print("ready", flush=True)
sys.stdin.readline()
"""
SERVER = f"""
import subprocess, sys, time
command = [sys.executable, "-c", {WORKER!r}, sys.argv[1]]
worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
worker.stdout.readline()
print(worker.pid, flush=True)
if sys.stdin.readline():
    worker.communicate(b"end")
else:
    time.sleep(20)
"""


@pytest.fixture(autouse=True)
def listener(monkeypatch):
    """A socket on which this process listens, which is made its own parent."""
    monkeypatch.setattr(os, "getppid", os.getpid)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def test_a_server_that_closes_its_listener_is_shutting_down_although_its_connections_stay(listener):
    server = ParentServer()
    with socket.create_connection(listener.getsockname()) as client, listener.accept()[0]:
        assert not server.is_shutting_down()
        listener.close()
        assert server.is_shutting_down()
        with socket.create_server(("127.0.0.1", 0)):  # such as of the next server on the same port
            assert server.is_shutting_down()
        client.close()


def test_a_server_that_closed_its_listener_before_the_job_began_is_shutting_down(listener):
    server = ParentServer()
    listener.close()
    assert server.is_shutting_down()


def test_a_server_that_is_gone_is_shutting_down(monkeypatch):
    server = ParentServer()
    assert not server.is_shutting_down()
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert server.is_shutting_down()


def test_a_server_that_cannot_be_inspected_counts_as_running(listener, monkeypatch):
    def denied(*_):
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil.Process, "net_connections", denied)
    listener.close()
    assert not ParentServer().is_shutting_down()


@contextmanager
def running_server(*, seconds_to_end):
    """A process that has started another one as its worker."""
    command = [sys.executable, "-c", SERVER, str(seconds_to_end)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        yield process
        process.kill()


def test_a_server_whose_worker_is_killed_says_so_and_ends():
    with running_server(seconds_to_end=1) as server:
        os.kill(int(server.stdout.readline()), signal.SIGKILL)
        server.stdin.close()
        assert server.wait(10) == -signal.SIGTERM
        assert "The worker has died, as when the system runs out of memory" in server.stderr.read()


def test_a_server_that_ends_after_its_worker_is_left_alone():
    with running_server(seconds_to_end=60) as server:
        (watcher,) = psutil.Process(int(server.stdout.readline())).children()
        _, errors = server.communicate("end\n")
        assert server.returncode == 0
        assert not psutil.wait_procs([watcher], timeout=10)[1]
        assert errors == ""
