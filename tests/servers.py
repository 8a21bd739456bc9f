"""A train server with its own folders, and access to its state and to the tars that it makes; the project with a second
base, for a server of two families."""

import io
import json
import shutil
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load
from torch import Tensor

from lora.training.checkpoints.files import MANIFEST
from lora.training.result.output import FOLDER, LORA_NAME, RUN
from script.cog_server import ROOT, Server, running_server
from tests.cog_client import call, content_of, data_uri, post_training, when_free
from tests.loopback import Webhook
from weights.catalogue import TINY

ACCEPTED = 202
KLEIN = "klein"  # the name of a published base
OF_WORKER = "flux-lora-inputs-"
IGNORED_PREFIXES = ("coglet", "flux-lora-server-")  # empty folders that Cog keeps for every job; the log of the server


@dataclass(frozen=True)
class Tar:
    """The output of a training."""

    content: bytes

    def file(self, name: str) -> bytes:
        """Return one of its files."""
        with tarfile.open(fileobj=io.BytesIO(self.content)) as opened:
            return opened.extractfile(name).read()

    @property
    def files(self) -> dict[str, bytes]:
        """All files but the record of the run, which are the same for the same training."""
        with tarfile.open(fileobj=io.BytesIO(self.content)) as opened:
            names = [name for name in opened.getnames() if name != f"{FOLDER}/report/{RUN}"]
            return {name: opened.extractfile(name).read() for name in names}

    @property
    def lora(self) -> bytes:
        """The file of the LoRA."""
        return self.file(LORA_NAME)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the LoRA."""
        return load(self.lora)

    def same_lora(self, other: "Tar") -> bool:
        """Whether all tensors are equal, bit for bit; settings in the files may differ."""
        ours, theirs = self.tensors, other.tensors
        return ours.keys() == theirs.keys() and all(ours[name].equal(theirs[name]) for name in ours)

    @property
    def account(self) -> dict[str, Any]:
        """The training summary, report/training.json."""
        return json.loads(self.file(f"{FOLDER}/report/training.json"))


@dataclass(frozen=True)
class TrainServer:
    """A train server, and the only folders that it may write to."""

    server: Server
    temporary: Path
    checkpoints: Path
    cache: Path

    @property
    def log(self) -> str:
        """The output of the server so far."""
        return self.server.output.read_text(errors="replace")

    def left_over(self) -> set[str]:
        """Return the names of everything in the temporary folders that belongs to a job."""
        (inside,) = self.temporary.glob(f"{OF_WORKER}*")  # which the worker has for itself
        found = (path.name for folder in (self.temporary, inside) for path in folder.iterdir())
        return {name for name in found if not name.startswith((*IGNORED_PREFIXES, OF_WORKER))}

    def steps_kept(self) -> list[int]:
        """Return the steps of all complete checkpoints, in order."""
        steps = [json.loads(path.read_text())["step"] for path in self.checkpoints.glob(f"*/*/step-*/{MANIFEST}")]
        return sorted(steps)

    def processes(self) -> set[int]:
        """Return the ids of the server's process and of all processes that it started."""
        server = psutil.Process(self.server.process.pid)
        return {server.pid, *(child.pid for child in server.children(recursive=True))}

    def start(self, name: str, receiver: Webhook, archive: bytes, **inputs: object) -> None:
        """Start a training with the id `name`, without waiting for its end."""
        body = {"input": {"input_images": data_uri(archive), **inputs}, "webhook": receiver.url}
        response = when_free("PUT", f"{self.server.url}/trainings/{name}", body, prefer="respond-async")
        assert response.status == ACCEPTED, response

    def cancel(self, name: str) -> int:
        """Cancel a training, and return the status of the response."""
        return call("POST", f"{self.server.url}/trainings/{name}/cancel", {}).status

    def train(self, archive: bytes, **inputs: object) -> Tar:
        """Run a training to its end, and return its output."""
        response = post_training(self.server, input_images=data_uri(archive), **inputs)
        assert response.body.get("status") == "succeeded", response
        return Tar(content_of(response.body["output"]["weights"]))


@contextmanager
def isolated_train_server(tmp_path_factory: pytest.TempPathFactory, *, base: str = TINY) -> Iterator[TrainServer]:
    """Run a train server on an embedded base, in folders that nothing else uses."""
    temporary, checkpoints, cache = map(tmp_path_factory.mktemp, ("t", "checkpoints", "cache"))
    with ExitStack() as running:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TMPDIR", str(temporary))
            patch.setenv("FLUX_LORA_CACHE", str(cache))
            patch.setenv("FLUX_LORA_CHECKPOINTS", str(checkpoints))
            server = running.enter_context(running_server("train", base=base))
        yield TrainServer(server, temporary, checkpoints, cache)


class TrainServers:
    """Runs one train server on a base, and another one after a test has ended it."""

    def __init__(self, tmp_path_factory: pytest.TempPathFactory, running: ExitStack, *, base: str) -> None:
        self._factory, self._running, self._base = tmp_path_factory, running, base
        self._place: TrainServer | None = None

    def running(self) -> TrainServer:
        """Return a server that is ready."""
        if self._place is None or self._place.server.process.poll() is not None:
            self._place = self._running.enter_context(isolated_train_server(self._factory, base=self._base))
        return self._place


def project_with_klein(folder: Path) -> Path:
    """Copy the project into a folder, as links, with a second base in weights/klein as `script/download klein` puts it
    there: the embedded one. A server looks for other bases than its own only in weights/."""
    for path in ROOT.iterdir():
        if not path.name.startswith(".") and path.name not in ("weights", "tests"):
            (folder / path.name).symlink_to(path)
    (folder / "weights").mkdir()
    for path in (ROOT / "weights").iterdir():
        copied = folder / "weights" / path.name
        if path.suffix == ".py":  # a module finds the folder of weights by its own, whatever link leads to it
            shutil.copy(path, copied)
        elif path.name != KLEIN:
            copied.symlink_to(path)
    (folder / "weights" / KLEIN).symlink_to(ROOT / "weights/tiny-flux2")
    return folder


def wait_until(condition: Callable[[], object], *, seconds: float, look_every: float = 0.01) -> None:
    """Wait until a condition is true; fail if it does not become true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not in {seconds:.0f} s"
        time.sleep(look_every)


def end_of(receiver: Webhook, *, seconds: float) -> dict[str, Any]:
    """Return the last event of a job; fail if it does not come in time."""
    deadline = time.monotonic() + seconds
    while True:
        event = receiver.events.get(timeout=max(deadline - time.monotonic(), 0.01))
        if event["status"] not in {"starting", "processing"}:
            return event
