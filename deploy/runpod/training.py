"""A worker that trains: the inputs of train.py in, the path of a tar on the volume out. Loads nothing itself."""

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from deploy.runpod.answers import Answer, Secrets, writable_folder
from deploy.runpod.files import received
from deploy.runpod.inputs import FILE, SECRET, Form
from deploy.runpod.jobs import Job
from weights.local_files import VARIABLE as FILES_VARIABLE

ROOT = Path(__file__).resolve().parents[2]
VOLUME, CHECKPOINTS = "FLUX_VOLUME", "FLUX_LORA_CHECKPOINTS"  # settings
MOUNTED = "/runpod-volume"  # where RunPod mounts a network volume in a serverless worker
TAR, REPORT = "trained_model.tar", "output/flux_train_replicate/report/training.json"
RESUME, LATEST = "resume_from", "latest"
STEP = re.compile(r"step \d+/\d+ ")
UPLOADED = re.compile(r"uploaded to (?P<url>https?://\S+)")
NOT_UPLOADED = re.compile(r"the upload to \S+ failed: .*")
ERROR = "error: "  # before the last line of a process that failed
SECONDS_BETWEEN_REPORTS = 5.0


@dataclass(frozen=True, slots=True)
class TrainingWorker:
    """Trains, each job in its own process, and keeps everything that outlives the worker on a volume."""

    form: Form
    volume: Path

    @classmethod
    def started(cls, form: Form) -> "TrainingWorker":
        """Find the volume: the folder that FLUX_VOLUME names, else the network volume of the endpoint.

        Raises ValueError with one sentence if there is none: LoRA and checkpoints would be lost with the worker.
        """
        given = os.environ.get(VOLUME, "").strip()
        if not given and not os.path.ismount(MOUNTED):
            raise ValueError(
                f"no network volume is mounted at {MOUNTED}: expected one, for checkpoints and trained LoRAs; attach it"
                f" to the endpoint, or set {VOLUME} to another folder that lasts"
            )
        return cls(form, writable_folder(VOLUME, Path(given or MOUNTED)))

    def answer(self, job: Job) -> Answer:
        """Train, or return what an earlier try of the same job has trained.

        RunPod gives the job of a worker that was lost to another worker, under the same id: that one goes on from the
        newest checkpoint.
        """
        inputs = self.form.checked(job.given)
        secrets = Secrets.of(inputs, self.form.named(SECRET))
        folder = self.volume / "loras" / job.folder_name
        is_retry, tar = folder.is_dir(), folder / TAR
        if tar.is_file():
            print(f"the job {job.id} was trained before: {tar} is returned, and nothing is trained", flush=True)
            return _answer(tar, [])
        writable_folder(VOLUME, folder)
        if is_retry and not inputs[RESUME]:
            inputs[RESUME] = LATEST
        with tempfile.TemporaryDirectory(prefix="flux-lora-job-") as files:
            for name in self.form.named(FILE):
                if inputs[name] is not None:
                    inputs[name] = received(name, inputs[name], into=Path(files))
            job.raise_if_cancelled()
            process = self._start({"inputs": inputs, "output": str(tar)}, readable=files)
            return _answer(tar, _followed(process, job, secrets))

    def must_restart(self, error: BaseException | None) -> bool:
        """Never: each training has a process of its own."""
        del error
        return False

    def _start(self, request: dict[str, Any], *, readable: str) -> subprocess.Popen[str]:
        """Start the process; it may read files of the job and of the volume."""
        readable_folders = [os.environ.get(FILES_VARIABLE, ""), readable, str(self.volume)]
        environment = {
            **os.environ,
            CHECKPOINTS: os.environ.get(CHECKPOINTS, "").strip() or str(self.volume / "checkpoints"),
            FILES_VARIABLE: os.pathsep.join(filter(None, readable_folders)),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
        }
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "deploy.runpod.training_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            text=True,
            errors="replace",
        )
        with suppress(BrokenPipeError), _stdin(process) as stdin:  # a process that ends at once says why on stdout
            json.dump(request, stdin)
        return process


def _stdin(process: subprocess.Popen[str]) -> IO[str]:
    if process.stdin is None:
        raise RuntimeError("the training process has no stdin")
    return process.stdin


def _followed(process: subprocess.Popen[str], job: Job, secrets: Secrets) -> list[str]:
    """Print what a training says until its end, report its steps, and return its lines.

    Raises RuntimeError with the sentence that it ended with if it failed.
    """
    job.stop_with(process.terminate)
    report, lines = throttled(job.report, seconds=SECONDS_BETWEEN_REPORTS), list[str]()
    with process:
        for line in process.stdout or ():
            lines.append(secrets.hidden_in(line.rstrip()))
            print(lines[-1], flush=True)
            if STEP.match(lines[-1]):
                report(lines[-1])
    if process.returncode:
        raise RuntimeError(_failure(process.returncode, lines))
    return lines


def throttled(report: Callable[[str], object], *, seconds: float) -> Callable[[str], None]:
    """Wrap `report` so that it drops what follows the last report within some seconds."""
    last = -seconds

    def throttle(text: str) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            report(text)

    return throttle


def _failure(code: int, lines: Sequence[str]) -> str:
    """Why a training failed: what it said itself, or what its end means."""
    said = [line.removeprefix(ERROR) for line in lines if line.startswith(ERROR)]
    if said:
        return said[-1]
    again = f"the same inputs with {RESUME} {LATEST} go on from the last checkpoint, if there is one"
    if code == -signal.SIGTERM:
        return f"the training was stopped before its first step had ended: {again}"
    if code == -signal.SIGKILL:
        return f"the training was killed, as when the system runs out of memory: {again}"
    return f"the training ended with exit code {code}, and the log of the worker says why: {again}"


def _answer(tar: Path, lines: Iterable[str]) -> Answer:
    """The path of the LoRA, how the training ended, and what came of its upload."""
    return {"weights": str(tar), **_ending(tar), **upload_of(lines)}


def upload_of(lines: Iterable[str]) -> Answer:
    """The URL of the repository to which a training was uploaded, or why it was not, by the lines of its log."""
    for line in lines:
        if uploaded := UPLOADED.fullmatch(line):
            return {"hub": uploaded["url"]}
        if NOT_UPLOADED.fullmatch(line):
            return {"hub_error": line}
    return {}


def _ending(tar: Path) -> Answer:
    """The steps that were done; nothing for an existing LoRA that was returned without a training."""
    with tarfile.open(tar) as opened:
        file = opened.extractfile(REPORT) if REPORT in opened.getnames() else None
        report = json.loads(file.read()) if file else {}
    return {name: report[name] for name in ("steps_done", "steps_asked", "stopped_early") if report.get(name)}
