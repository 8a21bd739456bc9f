"""All ways to end a training on the real Cog server early: no files or processes stay, and no checkpoint is lost."""

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from time import monotonic, sleep

import psutil
import pytest
from safetensors.torch import save_file

from script.cog_server import health
from tests.cog_client import content_of, data_uri, post_training
from tests.families import FIRST, KLEIN
from tests.loopback import webhook
from tests.servers import OF_WORKER, Tar, TrainServer, TrainServers, end_of, isolated_train_server, wait_until
from tests.tiny import assert_one_sentence, encoded, noisy_image, one_layer_lora, solid_image, zipped

pytestmark = pytest.mark.xdist_group("servers")

SECONDS_TO_CANCEL = 5 + 2  # and a step, on a busy machine
SECONDS_TO_STOP = 15  # the closed log is noticed at the next progress line, at most one a second
SECONDS_TO_BEGIN = 120

SHORT = {
    "steps": 4,
    "resolution": "64",
    "lora_rank": 2,
    "learning_rate": 0.01,
    "sample_prompts": "none",
    "preservation": 0.0,  # its 30 images take longer than all else before the first step of a long training
}
ENDLESS = {**SHORT, "steps": 6000, "checkpoint_every": 6000}
IMAGES = zipped({f"{index}.png": encoded(noisy_image(64, 64, seed=index)) for index in range(4)})


def small_images() -> bytes:
    return IMAGES


def large_images(count: int, side: int) -> bytes:
    """Images that differ only in bytes after the end of the JPEG data."""
    image = encoded(solid_image(side, side), "JPEG")
    return zipped({f"{index}.jpg": image + bytes([index]) for index in range(count)})


@dataclass(frozen=True)
class Phase:
    """A phase of a training, prolonged by its inputs."""

    inputs: dict[str, object]
    archive: Callable[[], bytes]
    is_reached: Callable[["Job"], object]


@dataclass(frozen=True)
class Job:
    """A training that was started on a server."""

    place: TrainServer
    log_before: int

    @property
    def log(self) -> str:
        """What the server has printed since the start of the training."""
        return self.place.log[self.log_before :]

    def has_file(self, pattern: str) -> bool:
        """Whether the training's folder has such a file."""
        return any(self.place.temporary.glob(f"{OF_WORKER}*/flux-lora-train-*/{pattern}"))

    def is_saving(self) -> bool:
        """Whether a checkpoint is being written."""
        return any(self.place.checkpoints.glob("*/*/step-*.tmp-*"))

    def is_encoding(self) -> bool:
        """Whether the encoders, which take a moment to load, are running."""
        if "sigma: " in self.log:
            sleep(1.5)
        return "sigma: " in self.log and "encoded " not in self.log


WIDE = {**ENDLESS, "lora_rank": 128}
PHASES = {
    "reading": Phase(ENDLESS, partial(large_images, 60, 4000), lambda job: job.has_file("dataset")),
    "loading the encoders": Phase(ENDLESS, small_images, lambda job: "sigma: " in job.log),
    "encoding": Phase({**ENDLESS, "resolution": "1024"}, partial(large_images, 16, 1024), Job.is_encoding),
    "loading the transformer": Phase(WIDE, small_images, lambda job: "plan: " in job.log),
    "sampling": Phase(
        {**ENDLESS, "sample_prompts": "TOK\n" * 8, "resolution": "128"}, small_images, lambda j: j.has_file("samples/*")
    ),
    "generating neutral images": Phase(
        {**ENDLESS, "preservation": 0.25}, small_images, lambda job: "preservation: generating" in job.log
    ),
    "stepping": Phase(ENDLESS, small_images, lambda job: "step " in job.log),
    "saving": Phase({**WIDE, "checkpoint_every": 1}, small_images, Job.is_saving),
}
NEXT = {
    "reading": "sigma: ",
    "encoding": "encoded ",
    "loading the encoders": "encoded ",
    "loading the transformer": "step ",
    "generating neutral images": "step ",
}


@pytest.fixture(scope="module")
def first(place: TrainServer) -> Tar:
    """The tar of a training before any was cancelled."""
    return place.train(IMAGES, **SHORT)


@pytest.fixture(scope="module")
def first_of_klein(klein_servers: TrainServers) -> Tar:
    """The same on klein."""
    return klein_servers.running().train(IMAGES, **SHORT)


@pytest.fixture
def server_to_end(
    request: pytest.FixtureRequest, klein_servers: TrainServers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TrainServer]:
    """A server of the family that the parameter names, which the test may end."""
    with ExitStack() as stack:
        if request.param == KLEIN.family.name:
            yield klein_servers.running()
        else:
            yield stack.enter_context(isolated_train_server(tmp_path_factory))


def ended_by(*endings: tuple[object, ...]) -> pytest.MarkDecorator:
    """Each ending of a server is shown with one of the families, as each takes a server."""
    return pytest.mark.parametrize(("server_to_end", "ending", "reason"), endings, indirect=["server_to_end"])


def cancelled(place: TrainServer, name: str, phase: Phase, *, pauses: tuple[float, ...] = ()) -> Job:
    """A training that was cancelled in a phase, and again after each pause."""
    with webhook() as receiver:
        job = Job(place, len(place.log))
        place.start(name, receiver, phase.archive(), **phase.inputs)
        wait_until(lambda: phase.is_reached(job), seconds=SECONDS_TO_BEGIN, look_every=0.002)
        place.cancel(name)
        began = monotonic()
        for pause in pauses:
            sleep(pause)
            place.cancel(name)
        end = end_of(receiver, seconds=SECONDS_TO_CANCEL)
        print(f"\n{name}: cancelled in {monotonic() - began:.2f} s")
        assert end["status"] == "canceled"
        for output in end.get("output") or []:  # Cog still sends the output if the cancellation came too late
            assert Tar(content_of(output["weights"])).account["steps_done"] == phase.inputs["steps"]
    return job


@pytest.mark.parametrize("name", PHASES)
def test_a_cancelled_training_ends_at_once_and_leaves_no_files_or_processes(place, first, name):
    before, processes = place.left_over(), place.processes()
    job = cancelled(place, name.replace(" ", "-"), PHASES[name])
    assert NEXT.get(name, "The LoRA is from") not in job.log
    wait_until(lambda: health(place.server)["status"] == "READY", seconds=SECONDS_TO_CANCEL)
    wait_until(lambda: place.left_over() <= before, seconds=SECONDS_TO_CANCEL)
    assert place.processes() == processes
    assert place.train(IMAGES, **SHORT).files == first.files


@pytest.mark.parametrize("name", ["encoding", "stepping"])
def test_a_training_on_klein_that_is_cancelled_or_refused_does_not_affect_the_next(
    klein_servers, first_of_klein, tmp_path, name
):
    """A training ends in the same way with all families; these are two phases whose models are not the same."""
    place = klein_servers.running()
    before, processes = place.left_over(), place.processes()
    cancelled(place, f"klein-{name}", PHASES[name])
    save_file(one_layer_lora(), lora_of_flux1 := tmp_path / "lora.safetensors")
    for inputs, sentence in (
        ({"input_images": data_uri(b"not a zip")}, "input_images "),
        ({"input_images": data_uri(IMAGES), "resume_from": str(lora_of_flux1)}, "it was made for FLUX.1"),
    ):
        response = post_training(place.server, **SHORT | inputs)
        assert response.body["status"] == "failed"
        assert_one_sentence(response.body["error"], sentence)
    assert place.train(IMAGES, **SHORT).files == first_of_klein.files
    assert len(place.left_over()) <= len(before) + 1
    assert place.processes() == processes


@pytest.mark.parametrize("name", ["stepping", "saving", "sampling"])
def test_a_training_cancelled_three_times_in_a_row_does_not_affect_the_next(place, first, name):
    processes = place.processes()
    cancelled(place, f"thrice-{name}", PHASES[name], pauses=(0.3, 0.3))
    assert place.train(IMAGES, **SHORT).files == first.files
    assert len(place.left_over()) == 1
    assert place.processes() == processes
    wait_until(lambda: health(place.server)["status"] == "READY", seconds=SECONDS_TO_CANCEL)


def test_a_cancelled_training_can_be_resumed_and_gives_the_same_lora(place):
    long = {**SHORT, "steps": 90, "checkpoint_every": 250, "seed": 5}  # the first line comes after a second
    before = place.steps_kept()
    cancelled(place, "to-go-on", Phase(long, small_images, lambda job: "/90  loss " in job.log))
    (step,) = new_steps(place, before)
    resumed = place.train(IMAGES, **long, resume_from="latest")
    assert 0 < step < 90
    assert f"resuming from step {step}" in place.log
    assert resumed.same_lora(place.train(IMAGES, **long))


def end_group(place: TrainServer) -> None:
    os.killpg(place.server.process.pid, signal.SIGTERM)


def end_server(place: TrainServer) -> None:
    place.server.process.terminate()


def kill_server(place: TrainServer) -> None:
    place.server.process.kill()


def processes_of(place: TrainServer) -> list[psutil.Process]:
    """Those that must be gone after the server."""
    return [psutil.Process(number) for number in place.processes()]


def new_steps(place: TrainServer, before: list[int]) -> list[int]:
    """The steps of checkpoints that there were not before."""
    return list((Counter(place.steps_kept()) - Counter(before)).elements())


@ended_by((FIRST.family.name, end_server, ""), (KLEIN.family.name, kill_server, ""))  # for the group, see the next test
def test_a_server_that_ends_leaves_a_checkpoint_of_its_last_step_and_no_worker(server_to_end, ending, reason):
    del reason  # nobody is told
    place, processes, before = server_to_end, processes_of(server_to_end), server_to_end.steps_kept()
    job = Job(place, len(place.log))
    with webhook() as receiver:
        place.start("lost", receiver, IMAGES, **ENDLESS)
        wait_until(lambda: "/6000  loss " in job.log, seconds=SECONDS_TO_BEGIN)
        ending(place)
        _, alive = psutil.wait_procs(processes, timeout=SECONDS_TO_STOP)
        assert not alive
        (step,) = new_steps(place, before)
        assert step >= last_logged_step(place)


def last_logged_step(place: TrainServer) -> int:
    lines = [line for line in place.log.splitlines() if "/6000  loss " in line]
    return int(lines[-1].split("/6000")[0].rpartition("step ")[2])


@ended_by(
    (KLEIN.family.name, end_server, "the server is shutting down"), (FIRST.family.name, end_group, "SIGTERM came")
)
def test_a_client_that_waits_gets_the_lora_trained_so_far_when_the_server_ends(server_to_end, ending, reason):
    """`docker stop` ends the server's process alone."""
    place, processes, before = server_to_end, processes_of(server_to_end), server_to_end.steps_kept()
    tar = ended_early(place, lambda: ending(place))
    assert tar.account["stopped_early"] == reason
    assert new_steps(place, before) == [tar.account["steps_done"]]
    assert not psutil.wait_procs(processes, timeout=SECONDS_TO_STOP)[1]


def test_sigterm_to_the_worker_alone_gives_the_client_a_lora_and_the_server_goes_on(place, first):
    worker = worker_of(place)
    tar = ended_early(place, worker.terminate)
    assert tar.account["stopped_early"] == "SIGTERM came"
    assert tar.account["steps_done"] in place.steps_kept()
    assert worker.is_running()
    assert place.train(IMAGES, **SHORT).files == first.files


def ended_early(place: TrainServer, ending: Callable[[], None]) -> Tar:
    """The output of a training that would last minutes, whose end was asked for while its client was waiting."""
    job = Job(place, len(place.log))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(post_training, place.server, input_images=data_uri(IMAGES), **ENDLESS)
        wait_until(lambda: "/6000  loss " in job.log, seconds=SECONDS_TO_BEGIN)
        ending()
        response = waiting.result(SECONDS_TO_STOP)
    assert response.body["status"] == "succeeded"
    tar = Tar(content_of(response.body["output"]["weights"]))
    assert all(each.isfinite().all() for each in tar.tensors.values())
    return tar


def worker_of(place: TrainServer) -> psutil.Process:
    """The process of a server that trains."""
    (worker,) = psutil.Process(place.server.process.pid).children()
    return worker


def test_the_server_ends_if_its_worker_is_killed(place):
    """tests/test_serve.py shows how."""
    assert [child.cmdline()[-2] for child in worker_of(place).children()] == [str(place.server.process.pid)]
