"""Two hundred requests of every kind to one server: each is drawn or refused for a reason, and nothing stays of it."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil
import pytest

from script.cog_server import Server, health, running_server
from tests.cog_client import Answer, Json, call, images_of, post_prediction, when_free
from tests.generation_requests import RandomRequest, Requests, some_loras
from tests.loopback import webhook
from tests.servers import ACCEPTED, end_of, wait_until

pytestmark = pytest.mark.xdist_group("soak")

REQUESTS, EVERY_CANCEL = 200, 10
WARM = 130  # requests after which the server has every kind of memory that it keeps
# Seconds after which a request is in our hands. In the first milliseconds Cog hands its files over in its own threads,
# where a cancel can leave its worker waiting for ever (0.23.1): nothing of ours runs then.
AT_WORK = 0.05
FLAT = 0.02  # of the memory
PROBE = {"prompt": "a red star", "num_inference_steps": 2, "seed": 5, "output_format": "png"}


@dataclass(frozen=True)
class Soak:
    """What was asked of a server, how it answered, and what was left."""

    answers: list[tuple[RandomRequest, Answer]]
    cancelled: list[str]  # how the requests that were cancelled ended
    memory: list[int]  # bytes of the server and its worker after each request
    left: set[str]  # names of what lies in its temporary folder
    first: list[bytes]  # the image of a fresh server
    last: list[bytes]
    health: str


@pytest.fixture(scope="module")
def soak(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Soak]:
    """All of it, once."""
    folder, cache = tmp_path_factory.mktemp("t"), tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setenv("XDG_CACHE_HOME", str(cache))
        # a processor's products are compiled for each shape, and 1,024 kept: more than these requests can fill
        patch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32")
        with running_server("predict", base="tiny") as server:
            yield soaked(server, folder)


def soaked(server: Server, folder: Path) -> Soak:
    requests = Requests(call("GET", f"{server.url}/openapi.json").body, some_loras(), seed=1)
    first = images_of(server, **PROBE)
    answers, cancelled, memory = [], [], []
    for index in range(REQUESTS):
        request = requests.request()
        if index % EVERY_CANCEL == 0:
            cancelled.append(
                cancel_soon(server, f"soak-{index}", request.inputs, after=AT_WORK + (index // EVERY_CANCEL % 5) / 20)
            )
        else:
            answers.append((request, post_prediction(server, **request.inputs)))
        memory.append(bytes_of(server))
    last = images_of(server, **PROBE)
    left = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    wait_until(lambda: health(server)["status"] != "BUSY", seconds=10)
    return Soak(answers, cancelled, memory, left, first, last, health(server)["status"])


def cancel_soon(server: Server, name: str, inputs: Json, *, after: float) -> str:
    """The status in which a request ends that is cancelled so many seconds after it began."""
    with webhook() as receiver:
        body = {"input": inputs, "webhook": receiver.url}
        answer = when_free("PUT", f"{server.url}/predictions/{name}", body, prefer="respond-async")
        assert answer.status == ACCEPTED, answer
        time.sleep(after)
        call("POST", f"{server.url}/predictions/{name}/cancel", {})
        return str(end_of(receiver, seconds=60)["status"])


def bytes_of(server: Server) -> int:
    process = psutil.Process(server.process.pid)
    return sum(each.memory_info().rss for each in (process, *process.children(recursive=True)))


def test_every_request_of_the_schema_is_drawn_or_refused_for_a_reason(soak: Soak) -> None:
    for request, answer in soak.answers:
        if not request.faults:
            assert answer.body["status"] == "succeeded", (answer.body.get("error"), request.inputs)
        else:
            assert answer.body["status"] == "failed", request.faults
            assert any(fault in answer.body["error"] for fault in request.faults), (
                answer.body["error"],
                request.faults,
            )
            assert "\n" not in answer.body["error"]


def test_requests_of_both_ends_were_among_them(soak: Soak) -> None:
    drawn = [request for request, _ in soak.answers if not request.faults]
    assert len(drawn) > len(soak.answers) / 4
    assert len(soak.answers) - len(drawn) > len(soak.answers) / 4
    assert "canceled" in soak.cancelled


def test_its_memory_stays_as_it_is(soak: Soak) -> None:
    before, after = median(soak.memory[WARM : WARM + 30]), median(soak.memory[-30:])
    print(f"\nmemory: {before:,.0f} bytes, then {after:,.0f}")
    assert after <= before * (1 + FLAT)


def test_nothing_is_left_but_the_last_images(soak: Soak) -> None:
    assert len([name for name in soak.left if not name.startswith("flux-lora-server-")]) == 1, soak.left


def test_the_last_image_is_that_of_a_fresh_server(soak: Soak) -> None:
    assert soak.last == soak.first


def test_the_server_is_ready_still(soak: Soak) -> None:
    assert soak.health == "READY"
