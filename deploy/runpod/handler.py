"""RunPod's serverless worker: takes jobs, and lets a worker of this project answer them.

    python -m deploy.runpod.handler                                        # in a worker
    python -m deploy.runpod.handler --test_input '{"input": {...}}'        # one job, here
    python -m deploy.runpod.handler --rp_serve_api --rp_api_port 8000      # RunPod's API, here

FLUX_TASK says what it does: generate (default) or train. docs/runpod.md has the other settings.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import runpod
from runpod.serverless.modules.rp_logger import RunPodLogger

from deploy.runpod.answers import REFRESH, Answer, Secrets, failure, logged
from deploy.runpod.inputs import SECRET, Form
from deploy.runpod.jobs import Job, Worker
from deploy.runpod.model_cache import use_cached_base

ROOT = Path(__file__).resolve().parents[2]
TASK, GENERATE, TRAIN = "FLUX_TASK", "generate", "train"
GENERATION, TRAINING = (ROOT / "predict.py", "Runner.run"), (ROOT / "train.py", "train")
LOG_LEVELS = ("RUNPOD_LOG_LEVEL", "RUNPOD_DEBUG_LEVEL")  # settings of RunPod's package
RESULTS = "RUNPOD_WEBHOOK_POST_OUTPUT"  # set in a worker of RunPod, where progress can be sent


class Handler:
    """Hands RunPod's jobs to a worker, in a thread: RunPod's own loop goes on, so that it hears of a cancellation."""

    def __init__(self, worker: Worker, send_progress: Callable[[dict[str, Any], str], object]) -> None:
        """`send_progress` takes a job of RunPod and a text."""
        self._worker, self._send_progress = worker, send_progress
        self._thread = ThreadPoolExecutor(max_workers=1)  # one job at a time, whatever RunPod does

    async def handle(self, given: dict[str, Any]) -> Answer:
        """Do a job of RunPod. A job that is cancelled stops soon, and only then the next one starts."""
        job = Job(str(given.get("id", "")), given.get("input"), partial(self._send_progress, given))
        future = asyncio.get_running_loop().run_in_executor(self._thread, self._worker.answer, job)
        with _stopped_by_sigterm(job):
            try:
                await asyncio.wait({future})
            except asyncio.CancelledError:
                job.cancel()
                await asyncio.wait({future})
                future.exception()
                raise
        error = future.exception()
        return future.result() if error is None else self._failure(error, job)

    def _failure(self, error: BaseException, job: Job) -> Answer:
        inputs = job.given if isinstance(job.given, dict) else {}
        secrets = Secrets.of(inputs, self._worker.form.named(SECRET))
        if text := logged(error, secrets):
            print(text, file=sys.stderr, flush=True)
        return failure(error, secrets) | ({REFRESH: True} if self._worker.must_restart(error) else {})


def main() -> None:
    """Start a worker, and take jobs until RunPod ends it."""
    try:
        worker = _started(os.environ.get(TASK, "").strip() or GENERATE)
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        sys.exit(f"error: {error}")
    if not any(name in os.environ for name in LOG_LEVELS):
        # By default it is DEBUG, which logs inputs with their secrets, and images. The variable is for its processes.
        os.environ[LOG_LEVELS[0]] = "INFO"
        RunPodLogger().set_level("INFO")
    runpod.serverless.start({"handler": Handler(worker, _send_progress).handle})


def _started(task: str) -> Worker:
    if task not in (GENERATE, TRAIN):
        raise ValueError(f"{TASK} is {task!r}: expected {GENERATE} or {TRAIN}")
    print(use_cached_base(), flush=True)
    if task == TRAIN:
        from deploy.runpod.training import TrainingWorker  # noqa: PLC0415 - each kind of worker imports only its own

        advice = f"it trains; an endpoint with {TASK}={GENERATE} generates images"
        return TrainingWorker.started(Form.of(TRAINING, other=GENERATION, advice=advice))
    from deploy.runpod.generating import GeneratingWorker  # noqa: PLC0415 - each kind imports only its own

    advice = f"it generates images; an endpoint with {TASK}={TRAIN} trains"
    return GeneratingWorker.started(Form.of(GENERATION, other=TRAINING, advice=advice))


def _send_progress(job: dict[str, Any], text: str) -> None:
    if RESULTS in os.environ:
        runpod.serverless.progress_update(job, text)


@contextmanager
def _stopped_by_sigterm(job: Job) -> Iterator[None]:
    """Let SIGTERM, which ends the worker, also stop a training in this block: it saves, and returns what it has."""
    earlier = signal.getsignal(signal.SIGTERM)

    def stop(number: int, frame: FrameType | None) -> None:
        job.stop()
        if callable(earlier):
            earlier(number, frame)

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)


if __name__ == "__main__":
    main()
