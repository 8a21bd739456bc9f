"""A `python` for programs that start others, such as torchrun: its processes are forked from a warm one.

The process that the program starts is a small one. It has another one forked that runs the module, with its arguments,
environment, working directory and output. Each of both ends as the other one does: signals are passed on, the exit code
is passed back, and if either is killed, so is the other. Nothing may have started a thread in the warm process, which
therefore only imports, and with OMP_NUM_THREADS=1.
"""

import json
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from pathlib import Path

from lora.training.stop import STOPPING
from tests.warm_process import FORKING, run_module

FORK = multiprocessing.get_context("fork")
NUMBER_BYTES = 4  # of each number that is sent
PROGRAM = """#!{python} -IS
import json, os, signal, socket, sys

PASSED_ON = signal.SIGTERM, signal.SIGINT, signal.SIGHUP
signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
request = json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]).encode()
socket.send_fds(server, [len(request).to_bytes({number_bytes})], [1, 2])
server.sendall(request)

def received():
    if not (number := server.recv({number_bytes})):
        os._exit(1)  # the tests have ended
    return int.from_bytes(number, signed=True)

pid = received()
for number in PASSED_ON:
    signal.signal(number, lambda number, _: os.kill(pid, number))
signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
if (code := received()) < 0:
    if -code != signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)  # as the other one was
os._exit(code)
"""


@contextmanager
def running_warm_python(folder: Path) -> Iterator[Path]:
    """An executable file that runs `-m MODULE ARGUMENTS` as Python does, in a forked process."""
    address, program = folder / "socket", folder / "python"
    python = os.path.realpath(sys.executable)  # which starts in a hundredth of a second
    program.write_text(PROGRAM.format(python=python, address=str(address), number_bytes=NUMBER_BYTES))
    program.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        listener.listen()
        server = FORKING.Process(target=_serve, args=(listener,))
        server.start()
    yield program
    server.kill()
    server.join()


def _serve(listener: socket.socket) -> None:
    """Fork a process for each request, until the tests have ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    while parent.sentinel not in wait([listener, parent.sentinel]):
        connection, _ = listener.accept()
        FORK.Process(target=_supervise, args=(connection,)).start()
        connection.close()
        multiprocessing.active_children()  # so that those that have ended are no zombies


def _supervise(connection: socket.socket) -> None:
    """Run a module in a process that ends if the one at the other end of the connection does, and send how it ended."""
    given, environment, folder, streams = _receive(connection)
    process = FORK.Process(target=_run, args=(given, environment, folder, streams))
    process.start()
    assert process.pid is not None
    for each in streams:
        os.close(each)
    with suppress(OSError):  # it has been killed
        _send(process.pid, connection)
    if process.sentinel not in wait([connection, process.sentinel]):
        process.kill()
    process.join()
    assert process.exitcode is not None
    with suppress(OSError):
        _send(process.exitcode, connection)


def _send(number: int, connection: socket.socket) -> None:
    connection.sendall(number.to_bytes(NUMBER_BYTES, signed=True))


def _receive(connection: socket.socket) -> tuple[list[str], dict[str, str], str, list[int]]:
    """The arguments, the environment, the working directory, and the streams for output and errors."""
    length, streams, _, _ = socket.recv_fds(connection, NUMBER_BYTES, 2)
    with connection.makefile("rb") as file:
        arguments, environment, folder = json.loads(file.read(int.from_bytes(length)))
    return arguments, environment, folder, streams


def _run(arguments: list[str], environment: dict[str, str], folder: str, streams: list[int]) -> None:
    os.setsid()
    for descriptor, stream in zip((1, 2), streams, strict=True):
        os.dup2(stream, descriptor)
        os.close(stream)
    for number in STOPPING:
        signal.signal(number, signal.SIG_DFL)  # train.py handles them in the warm process
    option, module, *given = (each for each in arguments if each != "-u")
    assert option == "-m", arguments
    sys.stdout.reconfigure(line_buffering=True)  # -u, or for somebody who waits for the end
    run_module(module, given, environment, folder)
