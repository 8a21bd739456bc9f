"""Starts and stops the real Cog server, without Docker."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from script.openapi import write_schema

ROOT = Path(__file__).resolve().parents[1]
HOST = "127.0.0.1"
MODES: dict[str, tuple[str, ...]] = {"train": ("--x-mode", "train"), "predict": ()}
SECONDS_TO_START = 600  # an idle machine takes 10; a busy one may take minutes
SECONDS_TO_STOP = 10
SECONDS_BETWEEN_POLLS = 0.1

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy for requests to this machine

Mode = Literal["train", "predict"]


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    url: str
    process: subprocess.Popen[bytes]
    output: Path  # of the server and its worker


@contextlib.contextmanager
def running_server(
    mode: Mode,
    *,
    base: str | None = None,
    port: int | None = None,
    cwd: Path | None = None,
    project: Path = ROOT,
) -> Iterator[Server]:
    """Run a server, and wait until it is ready. Raises RuntimeError with its logs if it does not become ready."""
    with started_server(mode, base=base, port=port, cwd=cwd, project=project) as server:
        wait_until_ready(server)
        yield server


@contextlib.contextmanager
def started_server(
    mode: Mode,
    *,
    base: str | None = None,
    port: int | None = None,
    cwd: Path | None = None,
    project: Path = ROOT,
) -> Iterator[Server]:
    """Start a server without waiting until it is ready, and stop it at the end of the block.

    `base` is its FLUX_BASE; without a port, it uses a free one. The server checks inputs by the schema in its working
    folder. In the folder of the project, the schema is written first; in another `cwd`, it is used if it exists. A copy
    of the `project` may have other weights.
    """
    port = free_port() if port is None else port
    _refuse_taken(port)
    if cwd is None:
        write_schema(project)
    with tempfile.TemporaryDirectory(prefix="flux-lora-server-") as folder:
        output = Path(folder) / "output.log"
        with output.open("ab") as log:  # not "wb": several processes write to it
            process = subprocess.Popen(
                [sys.executable, "-m", "cog.server.http", "--host", HOST, *MODES[mode]],
                cwd=cwd or project,
                env=_environment(base=base, port=port, project=project),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # its own process group, so that its worker is stopped with it
            )
        try:
            yield Server(f"http://{HOST}:{port}", process, output)
        finally:
            _stop(process)


def health(server: Server) -> dict[str, Any]:
    """Return the health check of a server; its status is STARTING while the server does not respond."""
    try:
        with DIRECT.open(f"{server.url}/health-check", timeout=10) as response:
            return json.load(response)
    except (urllib.error.URLError, OSError, ValueError):
        return {"status": "STARTING"}


def free_port() -> int:
    """Return a port that no process listens on at the moment."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return listener.getsockname()[1]


def _refuse_taken(port: int) -> None:
    """Raise ValueError if a port is in use. Cog would notice late, and another server would pass for this one."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise ValueError(f"port {port} cannot be used ({error}): expected a free port") from error


def _environment(*, base: str | None, port: int, project: Path) -> dict[str, str]:
    """Return the environment of a server. Cog starts its worker as `python`, so this Python comes first in PATH."""
    return {
        **os.environ,
        "COG_PREDICT_TYPE_STUB": f"{project}/predict.py:Runner",
        "COG_TRAIN_TYPE_STUB": f"{project}/train.py:train",
        "PORT": str(port),
        "NO_PROXY": ",".join(filter(None, [HOST, os.environ.get("NO_PROXY")])),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(project), os.environ.get("PYTHONPATH")])),
        **({"FLUX_BASE": base} if base else {}),
    }


def wait_until_ready(server: Server) -> None:
    """Wait until a server is ready for requests. Raises RuntimeError with its logs if it does not become ready."""
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline and server.process.poll() is None:
        response = health(server)
        if response["status"] == "READY":
            return
        if response["status"] == "SETUP_FAILED":
            raise RuntimeError(f"the server's setup failed: {response.get('setup', {}).get('logs', '')}")
        time.sleep(SECONDS_BETWEEN_POLLS)
    raise RuntimeError(f"the server did not start; its output: {server.output.read_text(errors='replace')}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Terminate the server, then kill what is left of it and its worker."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        if process.poll() is None:
            process.terminate()
        process.wait(SECONDS_TO_STOP)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
