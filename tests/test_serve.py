"""script/serve, following a real Cog server with a worker that starts fast."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from script import serve
from script.cog_server import HOST, ROOT, Server, free_port
from script.serve import follow
from tests.servers import wait_until

SECONDS = 30
LIGHT = """
from lora import parent_server
parent_server.SECONDS_TO_END = 2  # longer than script/serve waits here, so that both are seen
parent_server.ParentServer().end_if_this_process_dies()

def train(number: int = 0) -> str:
    return str(number)
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server that trains nothing."""
    (tmp_path / "light.py").write_text(LIGHT)
    port, output = free_port(), tmp_path / "output.log"
    paths = {"PATH": f"{Path(sys.executable).parent}:{os.defpath}", "PYTHONPATH": str(ROOT)}
    environment = {**os.environ, **paths, "PORT": str(port), "COG_TRAIN_TYPE_STUB": "light.py:train"}
    command = [sys.executable, "-m", "cog.server.http", "--host", HOST, "--x-mode", "train"]
    with output.open("ab") as log, subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=log) as process:
        yield Server(f"http://{HOST}:{port}", process, output)
        process.kill()


def test_serve_says_that_the_worker_has_died_and_ends_and_so_does_the_server_by_itself(
    server: Server, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after the system has killed it for want of memory. The server alone would answer 409 for ever."""
    monkeypatch.setattr(serve, "SECONDS_TO_END", 0.2)
    following = threading.Thread(target=follow, args=(server,), kwargs={"announcement": "Ready"})
    following.start()
    wait_until(lambda: "Ready" in capfd.readouterr().out, seconds=SECONDS)
    psutil.Process(server.process.pid).children()[0].kill()
    following.join(SECONDS)
    assert "error: the server's worker has died" in capfd.readouterr().err
    server.process.wait(SECONDS)
    assert "The worker has died, as when the system runs out of memory" in server.output.read_text()


def test_a_server_that_is_told_to_end_is_left_alone_and_nothing_is_said_about_its_worker(
    server: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    following = threading.Thread(target=follow, args=(server,), kwargs={"announcement": "Ready"})
    following.start()
    wait_until(lambda: "Ready" in capfd.readouterr().out, seconds=SECONDS)
    family = psutil.Process(server.process.pid).children(recursive=True)
    server.process.terminate()
    following.join(SECONDS)
    assert server.process.returncode == 0
    assert len(family) >= 2, "its worker, and what waits for the end of the worker"
    assert not psutil.wait_procs(family, timeout=SECONDS)[1]
    assert capfd.readouterr().err == ""
    assert "has died" not in server.output.read_text()
