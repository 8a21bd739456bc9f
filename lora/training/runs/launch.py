"""Launch one training in several processes, one per GPU: start them, relay their output, end them."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, Queue

import psutil
import torch
from torch import Tensor

from lora.dataset.encoding import EncodedDataset
from lora.training.learning.summary import TrainingResult
from lora.training.progress import Log
from lora.training.relay import relay_line
from lora.training.runs.worker_files import FAILED, OUT_OF_MEMORY, STOP, WorkerInput, read_result, write_worker_input
from lora.training.stop import Stop

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = "lora.training.runs.worker"
PROCESSES_VARIABLE = "FLUX_LORA_PROCESSES"
SECONDS_BETWEEN_POLLS = 0.2
SECONDS_TO_SAVE = 5.0  # between the request to stop and the kill
END = None  # marks the end of the output


def count_processes() -> int:
    """One process per visible GPU, unless FLUX_LORA_PROCESSES gives the number. Raises ValueError if that number is
    invalid."""
    requested = os.environ.get(PROCESSES_VARIABLE, "").strip()
    gpus = torch.cuda.device_count()
    if not requested:
        return max(gpus, 1)
    most = gpus or os.cpu_count() or 1
    if not requested.isdigit() or not 1 <= int(requested) <= most:
        raise ValueError(f"{PROCESSES_VARIABLE} is {requested!r}: expected 1 to {most}")
    return int(requested)


def train_data_parallel(
    worker_input: WorkerInput,
    dataset: EncodedDataset,
    lora: Mapping[str, Tensor] | None,
    *,
    processes: int,
    folder: Path,
    log: Log,
    stop: Stop,
) -> TrainingResult:
    """Train in `processes` processes that accelerate starts, with `folder` for their files.

    Raises torch.OutOfMemoryError if one of them ran out of memory, and RuntimeError with the message of the first error
    if one failed.
    """
    folder.mkdir()
    write_worker_input(folder, worker_input, dataset, lora)
    with _running(folder, processes) as (process, lines):
        while (line := _next(lines)) is not END:
            if line:
                relay_line(line, log)
            if (reason := stop.reason()) and not (folder / STOP).exists():
                (folder / STOP).write_text(reason)
        code = process.wait()
    if (folder / OUT_OF_MEMORY).exists():
        raise torch.OutOfMemoryError("a process of the training ran out of memory")
    if code:
        failed = folder / FAILED
        unknown = f"a process of the training ended with exit code {code}"
        raise RuntimeError(failed.read_text() if failed.exists() else unknown)
    return read_result(folder)


def _next(lines: "Queue[str | None]") -> str | None:
    """The next line, or an empty one after a short timeout, as a longer wait could not be interrupted."""
    try:
        return lines.get(timeout=SECONDS_BETWEEN_POLLS)
    except Empty:
        return ""


@contextmanager
def _running(folder: Path, processes: int) -> "Iterator[tuple[subprocess.Popen[str], Queue[str | None]]]":
    """Start the processes, and yield the launcher and a queue of the printed lines. On exit, the processes get a moment
    to save and are then killed."""
    options = ["--multi_gpu", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    count = ["--num_processes", str(processes), "--gpu_ids", "all", "--main_process_port", "0"]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", *options, *count]
    process = subprocess.Popen(
        [*launcher, "-m", PROGRAM, str(folder)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # a separate process group, which can be ended as a whole
    )
    lines: Queue[str | None] = Queue()
    threading.Thread(target=_read, args=(process, lines), daemon=True).start()
    try:
        yield process, lines
    finally:
        process_tree = _with_children(process.pid)  # one by one, as each has its own process group
        try:
            _request_stop(process, folder)
        finally:
            for each in process_tree:
                with suppress(psutil.NoSuchProcess):
                    each.kill()
            process.wait()


def _with_children(pid: int) -> list[psutil.Process]:
    """A process and all its descendants."""
    try:
        launcher = psutil.Process(pid)
        return [launcher, *launcher.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _request_stop(process: "subprocess.Popen[str]", folder: Path) -> None:
    deadline = time.monotonic() + SECONDS_TO_SAVE
    (folder / STOP).write_text("it was cancelled")
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(SECONDS_BETWEEN_POLLS)


def _read(process: "subprocess.Popen[str]", lines: "Queue[str | None]") -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line.rstrip("\n"))
    lines.put(END)
