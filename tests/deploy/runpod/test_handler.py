"""The handler under RunPod's own package: its worker loop, its test mode and its local API server."""

import json
import os
import signal
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
import pytest

from script.cog_server import free_port
from tests.deploy.runpod.worker_process import SMALL, VARIABLE, install_runpod
from tests.fake_runpod import FakeRunPod, fake_runpod
from tests.servers import wait_until
from tests.tiny import assert_one_sentence
from tests.warm_process import Trainer, command, run_command, small_archive

pytestmark = pytest.mark.xdist_group("warm")

MODULE = "tests.deploy.runpod.worker_process"
SECONDS = 240  # an idle machine takes a few
COMPLETE = f"*/*/step-{'[0-9]' * 6}"  # checkpoints in a folder, without those that are being written
SHORT = {"resolution": "64", "lora_rank": 2, "sample_prompts": "none", "preservation": 0.0, "validation": False}
TOKEN = "hf_secret_of_the_job"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The settings of every worker here."""
    packages = install_runpod(tmp_path_factory.mktemp("runpod"))
    return {VARIABLE: str(packages), "FLUX_BASE": "tiny", "FLUX_SAFETY": "off"}


@dataclass(frozen=True)
class Running:
    """A worker that takes jobs from RunPod."""

    process: BaseProcess
    log: Path
    runpod: FakeRunPod

    @property
    def said(self) -> str:
        """Its output so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


@contextmanager
def running(folder: Path, environment: dict[str, str]) -> Iterator[Running]:
    """Run a worker, and kill it with all that it started."""
    with fake_runpod() as runpod:
        log = folder / "log"
        process = command(MODULE, stdout=log, stderr=log, **environment, **runpod.environment)
        try:
            yield Running(process, log, runpod)
        finally:
            end(process)


def end(process: BaseProcess) -> None:
    """Kill a process and its children, as the end of a container does."""
    if process.is_alive():
        main = psutil.Process(process.pid)
        for each in [main, *main.children(recursive=True)]:
            each.kill()
    process.join(SECONDS)


@pytest.fixture(scope="module")
def generating(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A worker that generates."""
    with running(tmp_path_factory.mktemp("generating"), environment) as worker:
        yield worker


def test_a_job_reports_progress_and_if_runpod_stops_it_ends_at_once_and_the_next_one_is_answered(
    generating: Running,
) -> None:
    generating.runpod.run("a-u1", **SMALL | {"num_inference_steps": 50, "width": 512, "height": 512, "num_outputs": 4})
    progress = generating.runpod.next("a-u1")
    assert progress["status"] == "IN_PROGRESS"
    assert progress["output"].endswith(" of 200 steps")
    generating.runpod.stops.put("a-u1")
    wait_until(lambda: "Job stopped." in generating.said, seconds=SECONDS)
    generating.runpod.run("b-u1", **SMALL)
    while (sent := generating.runpod.sent.get(timeout=SECONDS))[0] == "a-u1":
        assert sent[1]["status"] == "IN_PROGRESS"
    assert sent[0] == "b-u1"
    assert sent[1].keys() == {"output"}
    assert sent[1]["output"]["seeds"] == [7]
    assert sent[1]["output"]["images"][0].startswith("data:image/webp;base64,")


def test_a_wrong_job_fails_with_one_sentence_and_the_next_one_is_right(generating: Running) -> None:
    generating.runpod.run("c-u1", prompt="a", num_inference_step=2, hf_api_token=TOKEN)
    found = generating.runpod.answer("c-u1")
    assert found == {"error": "num_inference_step is not an input: expected num_inference_steps"}
    generating.runpod.run("d-u1", **SMALL, lora_weights=f"https://{TOKEN}@example.invalid/{TOKEN}", hf_api_token=TOKEN)
    found = generating.runpod.answer("d-u1")
    assert_one_sentence(found["error"], "lora_weights", "expected")
    assert TOKEN not in json.dumps(found) + generating.said
    generating.runpod.run("e-u1", **SMALL)
    assert generating.runpod.answer("e-u1")["output"]["seeds"] == [7]


def test_runpods_local_api_server_answers_and_fails_as_its_endpoints_do(
    environment: dict[str, str], tmp_path: Path
) -> None:
    port = free_port()
    arguments = ("--rp_serve_api", "--rp_api_port", str(port), "--rp_api_host", "127.0.0.1")
    log = tmp_path / "log"
    process = command(MODULE, *arguments, stdout=log, stderr=log, **environment)
    try:
        wait_until(lambda: "Uvicorn running" in (log.read_text() if log.exists() else ""), seconds=SECONDS)
        answers = [runsync(port, **SMALL | changes) for changes in ({}, {"num_outputs": 9})]
    finally:
        end(process)
    assert answers[0]["status"] == "COMPLETED"
    assert answers[0]["output"]["images"][0].startswith("data:image/webp;base64,")
    assert (answers[1]["status"], answers[1]["error"]) == ("FAILED", "num_outputs is 9: expected 1 to 4")


def runsync(port: int, **inputs: object) -> dict[str, object]:
    """The answer of the local API server."""
    body = json.dumps({"input": inputs}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/runsync", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=SECONDS) as response:
        return json.load(response)


def test_a_worker_that_cannot_start_says_why_and_ends(environment: dict[str, str]) -> None:
    run = run_command(MODULE, "--test_input", '{"input": {}}', **environment | {"FLUX_TASK": "training"})
    assert (run.returncode, run.stderr) == (1, "error: FLUX_TASK is 'training': expected generate or train\n")


def test_the_job_of_a_lost_worker_goes_on_and_sigterm_saves_it_and_it_is_not_trained_twice(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """RunPod gives a job whose worker was lost to another one; here the first try is the training of a test. The base
    is klein; that of other workers here is a FLUX.1."""
    archive, base = small_archive(tmp_path), "tiny-flux2"
    inputs = {**SHORT, "steps": 3000, "checkpoint_every": 1}
    lost = Trainer(tmp_path, archive, inputs, base=base).start()
    wait_until(lambda: [*tmp_path.glob(f"checkpoints/{COMPLETE}")], seconds=SECONDS)
    lost.process.kill()
    tar = tmp_path / "loras/a-u1/trained_model.tar"
    tar.parent.mkdir(parents=True)
    environment = environment | {"FLUX_BASE": base, "FLUX_TASK": "train", "FLUX_VOLUME": str(tmp_path)}
    environment["FLUX_LORA_CHECKPOINTS"] = ""
    inputs |= {"input_images": str(archive), "hf_token": TOKEN}
    with running(tmp_path, environment) as worker:
        worker.runpod.run("a-u1", **inputs)
        assert worker.runpod.next("a-u1")["output"].startswith("step ")
        os.kill(worker.process.pid, signal.SIGTERM)
        found = worker.runpod.answer("a-u1")
        worker.process.join(SECONDS)
        assert worker.process.exitcode == 0
    assert "resuming from step " in worker.said, worker.said
    assert TOKEN not in worker.said + json.dumps(found)
    output = found["output"]
    assert (output["weights"], output["stopped_early"]) == (str(tar), "SIGTERM came")
    assert output["steps_done"] < output["steps_asked"]
    trained = tar.stat()
    test = ("--test_input", json.dumps({"id": "a-u1", "input": inputs}))
    assert str(output) in run_command(MODULE, *test, **environment).stdout
    assert tar.stat().st_mtime_ns == trained.st_mtime_ns
