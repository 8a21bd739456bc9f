"""All ways to end a training on the real Cog server before its time: nothing is left, and nothing is lost."""

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic, sleep

import psutil
import pytest

from script.cog_server import health
from tests.cog_client import content_of, data_uri, post_training
from tests.loopback import webhook
from tests.servers import Place, Tar, end_of, train_place, wait_until
from tests.tiny import encoded, noisy_image, picture, zipped

pytestmark = pytest.mark.xdist_group("servers")

SECONDS_TO_CANCEL = 5 + 2  # and a step, on a machine that does other things too
SECONDS_TO_STOP = 15  # what comes first is a line of progress, one a second
SECONDS_TO_BEGIN = 120

SHORT = {"steps": 4, "resolution": "64", "lora_rank": 2, "learning_rate": 0.01}
ENDLESS = {**SHORT, "steps": 6000, "checkpoint_every": 6000}
IMAGES = zipped({f"{index}.png": encoded(noisy_image(64, 64, seed=index)) for index in range(4)})


def large_images(count: int, side: int) -> bytes:
    """Images that differ in a few bytes that nobody decodes."""
    image = encoded(picture(side, side), "JPEG")
    return zipped({f"{index}.jpg": image + bytes([index]) for index in range(count)})


@dataclass(frozen=True)
class Phase:
    """A part of a training, made long."""

    inputs: dict[str, object]
    archive: bytes
    is_reached: Callable[["Job"], object]


@dataclass(frozen=True)
class Job:
    """A training that was started at a place."""

    place: Place
    log_before: int

    @property
    def log(self) -> str:
        """What the server printed since."""
        return self.place.log[self.log_before :]

    def has(self, pattern: str) -> bool:
        """Whether a file is in its folder."""
        return any(self.place.temporary.glob(f"flux-lora-train-*/{pattern}"))

    def saves(self) -> bool:
        """Whether a checkpoint is being written."""
        return any(self.place.checkpoints.glob("*/*/step-*.tmp-*"))

    def encodes(self) -> bool:
        """Whether the encoders, which take a moment to load, are at work."""
        if "sigma: " in self.log:
            sleep(1.5)
        return "sigma: " in self.log and "encoded " not in self.log


WIDE = {**ENDLESS, "lora_rank": 128}
PHASES = {
    "reading": Phase(ENDLESS, large_images(60, 4000), lambda job: job.has("dataset")),
    "loading the encoders": Phase(ENDLESS, IMAGES, lambda job: "sigma: " in job.log),
    "encoding": Phase({**ENDLESS, "resolution": "1024"}, large_images(40, 1024), Job.encodes),
    "loading the transformer": Phase(WIDE, IMAGES, lambda job: "plan: " in job.log),
    "sampling": Phase(
        {**ENDLESS, "sample_prompts": "TOK\n" * 8, "resolution": "256"}, IMAGES, lambda j: j.has("samples/*")
    ),
    "stepping": Phase(ENDLESS, IMAGES, lambda job: "step " in job.log),
    "saving": Phase({**WIDE, "checkpoint_every": 1}, IMAGES, Job.saves),
}
NEXT = {
    "reading": "sigma: ",
    "encoding": "encoded ",
    "loading the encoders": "encoded ",
    "loading the transformer": "step ",
}


@pytest.fixture(scope="module")
def first(place: Place) -> Tar:
    """What the server made before any was cancelled."""
    return place.train(IMAGES, **SHORT)


def cancelled(place: Place, name: str, phase: Phase, *, pauses: tuple[float, ...] = ()) -> Job:
    """A training that was cancelled in a phase, once and again after each pause."""
    with webhook() as receiver:
        job = Job(place, len(place.log))
        place.start(name, receiver, phase.archive, **phase.inputs)
        wait_until(lambda: phase.is_reached(job), seconds=SECONDS_TO_BEGIN, look_every=0.002)
        place.cancel(name)
        began = monotonic()
        for pause in pauses:
            sleep(pause)
            place.cancel(name)
        end = end_of(receiver, seconds=SECONDS_TO_CANCEL)
        print(f"\n{name}: cancelled in {monotonic() - began:.2f} s")
        assert end["status"] == "canceled"
        for output in end.get("output") or []:  # Cog sends on what was made when the cancel came too late
            assert Tar(content_of(output["weights"])).account["steps_done"] == phase.inputs["steps"]
    return job


@pytest.mark.parametrize("name", PHASES)
def test_a_cancelled_training_ends_at_once_and_leaves_nothing(place, first, name):
    before, processes = place.left_over(), place.processes()
    job = cancelled(place, name.replace(" ", "-"), PHASES[name])
    assert NEXT.get(name, "The LoRA is that of") not in job.log
    wait_until(lambda: health(place.server)["status"] == "READY", seconds=SECONDS_TO_CANCEL)
    wait_until(lambda: place.left_over() <= before, seconds=SECONDS_TO_CANCEL)
    assert place.processes() == processes
    assert place.train(IMAGES, **SHORT).content == first.content


@pytest.mark.parametrize("name", ["stepping", "saving", "sampling"])
def test_a_training_cancelled_three_times_in_a_row_leaves_nothing_to_the_next(place, first, name):
    processes = place.processes()
    cancelled(place, f"thrice-{name}", PHASES[name], pauses=(0.3, 0.3))
    assert place.train(IMAGES, **SHORT).content == first.content
    assert len(place.left_over()) == 1
    assert place.processes() == processes
    wait_until(lambda: health(place.server)["status"] == "READY", seconds=SECONDS_TO_CANCEL)


def test_a_cancelled_training_goes_on_where_it_stopped_and_ends_as_if_nothing_had_been(place):
    long = {**SHORT, "steps": 100, "checkpoint_every": 250, "seed": 5}
    before = place.steps_kept()
    cancelled(place, "to-go-on", Phase(long, IMAGES, lambda job: "/100  loss " in job.log))
    (step,) = (Counter(place.steps_kept()) - Counter(before)).elements()
    resumed = place.train(IMAGES, **long, resume_from="latest")
    assert 0 < step < 100
    assert f"goes on from step {step}" in place.log
    assert resumed.same_lora(place.train(IMAGES, **long))


def end_group(place: Place) -> None:
    os.killpg(place.server.process.pid, signal.SIGTERM)


def end_server(place: Place) -> None:
    place.server.process.terminate()


def kill_server(place: Place) -> None:
    place.server.process.kill()


@contextmanager
def a_place_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Place, list[psutil.Process]]]:
    """A server that is going to end, and what must be gone afterwards."""
    with train_place(tmp_path_factory) as place:
        yield place, [psutil.Process(number) for number in place.processes()]


@pytest.mark.parametrize("ending", [end_server, end_group, kill_server])
def test_a_server_that_ends_leaves_a_checkpoint_of_the_step_it_was_at_and_no_worker(tmp_path_factory, ending):
    with a_place_of_its_own(tmp_path_factory) as (place, processes), webhook() as receiver:
        place.start("lost", receiver, IMAGES, **ENDLESS)
        wait_until(lambda: "/6000  loss " in place.log, seconds=SECONDS_TO_BEGIN)
        ending(place)
        _, alive = psutil.wait_procs(processes, timeout=SECONDS_TO_STOP)
        assert not alive
        (step,) = place.steps_kept()
        assert step >= last_step_said(place)


def last_step_said(place: Place) -> int:
    lines = [line for line in place.log.splitlines() if "/6000  loss " in line]
    return int(lines[-1].split("/6000")[0].rpartition("step ")[2])


@pytest.mark.parametrize("ending", [end_server, end_group])
def test_who_waits_for_a_training_when_its_server_is_ended_gets_what_was_learned(tmp_path_factory, ending):
    with a_place_of_its_own(tmp_path_factory) as (place, processes), ThreadPoolExecutor(1) as pool:
        inputs = {"input_images": data_uri(IMAGES), **SHORT, "steps": 40, "checkpoint_every": 250}
        waiting = pool.submit(post_training, place.server, **inputs)
        wait_until(lambda: "/40  loss " in place.log, seconds=SECONDS_TO_BEGIN)
        ending(place)
        answer = waiting.result(SECONDS_TO_BEGIN)
        print(ending.__name__, str(answer)[:300])
        assert answer.body["status"] == "succeeded"
        tar = Tar(content_of(answer.body["output"]["weights"]))
        assert all(each.isfinite().all() for each in tar.tensors.values())
        assert tar.account["stopped_early"] == (None if ending is end_server else "SIGTERM came")
        assert not psutil.wait_procs(processes, timeout=SECONDS_TO_STOP)[1]
