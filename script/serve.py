"""Serve the package as Replicate does, on this machine, until Ctrl-C."""

import argparse
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import BinaryIO

import psutil

from script.cog_server import SECONDS_BETWEEN_POLLS, Server, health, started_server

SECONDS_TO_END = 3  # between the ends of the worker and of a server that shuts down
DEAD_WORKER = """
error: the server's worker has died: most likely the system ran out of memory and killed it (`dmesg` shows that), unless
an error above says otherwise. The server cannot go on without it and ends. Free some memory and start it again."""


def main() -> int:
    """Serve until stopped. Returns the exit code: 0 if stopped, 1 if the server ended, failed to start or lost its
    worker."""
    parser = argparse.ArgumentParser(prog="script/serve", description=__doc__)
    parser.add_argument("mode", nargs="?", choices=["predict", "train"], default="predict", help="default: predict")
    parser.add_argument("--port", type=int, default=5000, help="default: 5000")
    arguments = parser.parse_args()
    for stop in (signal.SIGINT, signal.SIGTERM):  # a shell may have disabled them for a background process
        signal.signal(stop, signal.default_int_handler)
    try:
        with started_server(arguments.mode, port=arguments.port) as server:
            follow(server, announcement=_announcement(arguments.mode, server.url))
    except ValueError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        return 0
    return 1


def _announcement(mode: str, url: str) -> str:
    path = {"predict": "predictions", "train": "trainings"}[mode]
    return f"\nReady: POST {url}/{path}\n  inputs: {url}/openapi.json\n  health: {url}/health-check\n"


def follow(server: Server, *, announcement: str) -> None:
    """Print the output of the server until it ends, fails to start or loses its worker; print the announcement when it
    is ready."""
    status, worker = "STARTING", None
    with server.output.open("rb") as output:
        while server.process.poll() is None and status != "SETUP_FAILED" and not (worker and _has_died(worker)):
            _show(output)
            if status == "STARTING" and (status := health(server)["status"]) == "READY":
                worker = next(iter(psutil.Process(server.process.pid).children()), None)
                print(announcement, flush=True)
            time.sleep(SECONDS_BETWEEN_POLLS)
        if worker and _has_died(worker) and not _ends_by_itself(server):
            print(DEAD_WORKER, file=sys.stderr, flush=True)
        _show(output)


def _ends_by_itself(server: Server) -> bool:
    """Whether the server ends within seconds, as when a client has told it to shut down."""
    with suppress(subprocess.TimeoutExpired):
        server.process.wait(SECONDS_TO_END)
    return server.process.poll() is not None


def _has_died(worker: psutil.Process) -> bool:
    """Whether the worker has ended; Cog's server goes on without it, and answers every request with 409."""
    return not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


def _show(output: BinaryIO) -> None:
    sys.stdout.write(output.read().decode(errors="replace"))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
