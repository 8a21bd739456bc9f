"""Images that should not be shown, through the real Cog server, with a classifier that was taught to block one."""

import io
from collections.abc import Iterator

import pytest
from PIL import Image

from script.cog_server import Server, running_server
from tests.classifiers import taught_classifier
from tests.cog_client import Json, content_of, images_of, when_free
from tests.loopback import webhook
from tests.servers import end_of
from tests.test_server_predict import SMALL_REQUEST
from weights.safety import REPOSITORY

pytestmark = pytest.mark.xdist_group("servers")

COMMIT = "a" * 40
FOUR = {**SMALL_REQUEST, "num_outputs": 4}


@pytest.fixture(scope="module")
def four(predict_server: Server) -> list[bytes]:
    """What is drawn where nothing is checked."""
    return images_of(predict_server, **FOUR)


@pytest.fixture(scope="module")
def server(four: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that must check, and finds its classifier in the Hub's cache; the second of the four is blocked."""
    hub = tmp_path_factory.mktemp("hub")
    folder = hub / f"models--{REPOSITORY.replace('/', '--')}"
    pictures = [Image.open(io.BytesIO(image)).convert("RGB") for image in four]
    taught_classifier(folder / "snapshots" / COMMIT, allowed=pictures[:1] + pictures[2:], blocked=pictures[1:2])
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLUX_SAFETY", "required")
        patch.setenv("HF_HUB_CACHE", str(hub))
        patch.setenv("HF_HUB_OFFLINE", "1")
        with running_server("predict", base="tiny") as it:
            yield it


def drawn(server: Server, **inputs: object) -> Json:
    """The last event of a prediction, which has its log."""
    with webhook() as receiver:
        body = {"input": inputs, "webhook": receiver.url, "webhook_events_filter": ["completed"]}
        when_free("POST", f"{server.url}/predictions", body)
        return end_of(receiver, seconds=60)


def test_one_that_is_blocked_is_left_out_and_named(server: Server, four: list[bytes]) -> None:
    """D35 and D37: nor does a request get its way where the deployment insists."""
    event = drawn(server, **FOUR, disable_safety_checker=True)
    assert [content_of(uri) for uri in event["output"]] == [four[0], four[2], four[3]]
    assert "blocked by the safety checker: image 2 of 4" in event["logs"]


def test_if_all_are_blocked_the_request_fails_with_that(server: Server) -> None:
    event = drawn(server, **{**SMALL_REQUEST, "seed": SMALL_REQUEST["seed"] + 1})
    assert event["status"] == "failed"
    assert "the safety checker blocked the image" in event["error"]


def test_the_log_of_the_setup_says_that_images_are_checked(server: Server) -> None:
    log = server.output.read_text()
    assert "safety checker: every image is checked" in log
    assert "unless a request says no" not in log
