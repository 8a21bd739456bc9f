"""Serve the package as Replicate does, on this machine, until Ctrl-C."""

import argparse
import signal
import sys
import time
from typing import BinaryIO

from script.cog_server import SECONDS_BETWEEN_POLLS, Server, health, started_server


def main() -> int:
    """Serve until stopped. Returns the exit code: 0 if stopped, 1 if the server ended or failed to start."""
    parser = argparse.ArgumentParser(prog="script/serve", description=__doc__)
    parser.add_argument("mode", nargs="?", choices=["predict", "train"], default="predict", help="default: predict")
    parser.add_argument("--port", type=int, default=5000, help="default: 5000")
    arguments = parser.parse_args()
    for stop in (signal.SIGINT, signal.SIGTERM):  # a shell may have disabled them for a background process
        signal.signal(stop, signal.default_int_handler)
    try:
        with started_server(arguments.mode, port=arguments.port) as server:
            _follow(server, announcement=_announcement(arguments.mode, server.url))
    except ValueError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        return 0
    return 1


def _announcement(mode: str, url: str) -> str:
    path = {"predict": "predictions", "train": "trainings"}[mode]
    return f"\nReady: POST {url}/{path}\n  inputs: {url}/openapi.json\n  health: {url}/health-check\n"


def _follow(server: Server, *, announcement: str) -> None:
    """Print the output of the server until it ends or fails to start; print the announcement when it is ready."""
    status = "STARTING"
    with server.output.open("rb") as output:
        while server.process.poll() is None and status != "SETUP_FAILED":
            _show(output)
            if status == "STARTING" and (status := health(server)["status"]) == "READY":
                print(announcement, flush=True)
            time.sleep(SECONDS_BETWEEN_POLLS)
        _show(output)


def _show(output: BinaryIO) -> None:
    sys.stdout.write(output.read().decode(errors="replace"))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
