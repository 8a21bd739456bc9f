"""The real Cog server without Docker: start it, wait for it, stop it."""

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
SECONDS_TO_START = 600  # a quiet machine takes 10; a busy one that takes minutes is not broken
SECONDS_TO_STOP = 10
SECONDS_BETWEEN_POLLS = 0.1

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy does not know this machine

Mode = Literal["train", "predict"]


@dataclass(frozen=True, slots=True)
class Server:
    """A server that was started."""

    url: str
    process: subprocess.Popen[bytes]
    output: Path  # what it and its worker print


@contextlib.contextmanager
def running_server(
    mode: Mode, *, base: str | None = None, port: int | None = None, cwd: Path | None = None
) -> Iterator[Server]:
    """A server that is ready for requests. Raises RuntimeError with its logs if it does not become so."""
    with started_server(mode, base=base, port=port, cwd=cwd) as server:
        wait_until_ready(server)
        yield server


@contextlib.contextmanager
def started_server(
    mode: Mode, *, base: str | None = None, port: int | None = None, cwd: Path | None = None
) -> Iterator[Server]:
    """A server that is still loading; stopped at the end.

    `base` is its FLUX_BASE; without a port, a free one is taken. It checks inputs by the schema in its working folder:
    a fresh one in that of the project, what is there (or nothing) in another `cwd`.
    """
    port = _free_port() if port is None else port
    _refuse_taken(port)
    if cwd is None:
        write_schema(ROOT)
    with tempfile.TemporaryDirectory(prefix="flux-lora-server-") as folder:
        output = Path(folder) / "output.log"
        with output.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "cog.server.http", "--host", HOST, *MODES[mode]],
                cwd=cwd or ROOT,
                env=_environment(base=base, port=port),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a group of its own, so that its worker can be stopped with it
            )
        try:
            yield Server(f"http://{HOST}:{port}", process, output)
        finally:
            _stop(process)


def health(server: Server) -> dict[str, Any]:
    """What the server says of itself; STARTING while it does not answer."""
    try:
        with DIRECT.open(f"{server.url}/health-check", timeout=10) as response:
            return json.load(response)
    except (urllib.error.URLError, OSError, ValueError):
        return {"status": "STARTING"}


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return listener.getsockname()[1]


def _refuse_taken(port: int) -> None:
    """Cog would find out late, and somebody else's server would be taken for ours."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise ValueError(f"port {port} cannot be used ({error}): expected a free one") from error


def _environment(*, base: str | None, port: int) -> dict[str, str]:
    """Cog starts its worker as `python`, whichever comes first in PATH: it has to be this one."""
    return {
        **os.environ,
        "COG_PREDICT_TYPE_STUB": f"{ROOT}/predict.py:Runner",
        "COG_TRAIN_TYPE_STUB": f"{ROOT}/train.py:train",
        "PORT": str(port),
        "NO_PROXY": ",".join(filter(None, [HOST, os.environ.get("NO_PROXY")])),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        **({"FLUX_BASE": base} if base else {}),
    }


def wait_until_ready(server: Server) -> None:
    """Return when a server takes requests. Raises RuntimeError with its logs if it does not come to that."""
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline and server.process.poll() is None:
        found = health(server)
        if found["status"] == "READY":
            return
        if found["status"] == "SETUP_FAILED":
            raise RuntimeError(f"the server's setup failed: {found.get('setup', {}).get('logs', '')}")
        time.sleep(SECONDS_BETWEEN_POLLS)
    raise RuntimeError(f"the server did not start; it printed: {server.output.read_text(errors='replace')}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the server to end, then make sure that neither it nor its worker is left."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        if process.poll() is None:
            process.terminate()
        process.wait(SECONDS_TO_STOP)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
