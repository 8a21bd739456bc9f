"""A train server with folders of its own, and what a test wants to know of it and of the tars that it makes."""

import io
import json
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
from lora.training.result.output import FOLDER, LORA_NAME
from script.cog_server import Server, running_server
from tests.cog_client import call, content_of, data_uri, post_training, when_free
from tests.loopback import Webhook

ACCEPTED = 202
NOT_OURS = ("coglet", "flux-lora-server-")  # Cog keeps empty folders of every job there; the log of the server


@dataclass(frozen=True)
class Tar:
    """What a training made."""

    content: bytes

    def file(self, name: str) -> bytes:
        """One of its files."""
        with tarfile.open(fileobj=io.BytesIO(self.content)) as opened:
            return opened.extractfile(name).read()

    @property
    def lora(self) -> bytes:
        """The LoRA's file."""
        return self.file(LORA_NAME)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The LoRA."""
        return load(self.lora)

    def same_lora(self, other: "Tar") -> bool:
        """Whether every tensor is the same, bit for bit; settings in the files may differ."""
        ours, theirs = self.tensors, other.tensors
        return ours.keys() == theirs.keys() and all(ours[name].equal(theirs[name]) for name in ours)

    @property
    def account(self) -> dict[str, Any]:
        """How the training went."""
        return json.loads(self.file(f"{FOLDER}/report/training.json"))


@dataclass(frozen=True)
class Place:
    """A train server, and the only folders that it may write to."""

    server: Server
    temporary: Path
    checkpoints: Path
    cache: Path

    @property
    def log(self) -> str:
        """What the server printed so far."""
        return self.server.output.read_text(errors="replace")

    def left_over(self) -> set[str]:
        """What lies in the temporary folder and is of a job."""
        return {path.name for path in self.temporary.iterdir() if not path.name.startswith(NOT_OURS)}

    def steps_kept(self) -> list[int]:
        """The steps of all whole checkpoints, in order."""
        found = [json.loads(path.read_text())["step"] for path in self.checkpoints.glob(f"*/*/step-*/{MANIFEST}")]
        return sorted(found)

    def processes(self) -> set[int]:
        """The server and all that it started."""
        server = psutil.Process(self.server.process.pid)
        return {server.pid, *(child.pid for child in server.children(recursive=True))}

    def start(self, name: str, receiver: Webhook, archive: bytes, **inputs: object) -> None:
        """Start a training under a name of ours, without waiting for its end."""
        body = {"input": {"input_images": data_uri(archive), **inputs}, "webhook": receiver.url}
        answer = when_free("PUT", f"{self.server.url}/trainings/{name}", body, prefer="respond-async")
        assert answer.status == ACCEPTED, answer

    def cancel(self, name: str) -> int:
        """Ask for the end of a training; the status of the answer."""
        return call("POST", f"{self.server.url}/trainings/{name}/cancel", {}).status

    def train(self, archive: bytes, **inputs: object) -> Tar:
        """What a training makes that nobody disturbs."""
        answer = post_training(self.server, input_images=data_uri(archive), **inputs)
        assert answer.body.get("status") == "succeeded", answer
        return Tar(content_of(answer.body["output"]["weights"]))


@contextmanager
def train_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A server on the tiny base. Nothing else has its folders."""
    temporary, checkpoints, cache = map(tmp_path_factory.mktemp, ("t", "checkpoints", "cache"))
    with ExitStack() as running:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TMPDIR", str(temporary))
            patch.setenv("FLUX_LORA_CACHE", str(cache))
            patch.setenv("FLUX_LORA_CHECKPOINTS", str(checkpoints))
            server = running.enter_context(running_server("train", base="tiny"))
        yield Place(server, temporary, checkpoints, cache)


def wait_until(condition: Callable[[], object], *, seconds: float, look_every: float = 0.01) -> None:
    """Look again and again; fail if it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not in {seconds:.0f} s"
        time.sleep(look_every)


def end_of(receiver: Webhook, *, seconds: float) -> dict[str, Any]:
    """The last event of a job; fails if it does not come in time."""
    deadline = time.monotonic() + seconds
    while True:
        event = receiver.events.get(timeout=max(deadline - time.monotonic(), 0.01))
        if event["status"] not in {"starting", "processing"}:
            return event
