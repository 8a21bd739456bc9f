"""The safety checker in the real Cog server, with a classifier that is trained to block one image."""

import io
import re
from collections.abc import Iterator

import pytest
from PIL import Image

from script.cog_server import Server, running_server
from tests.base_services import files_of, tar_of
from tests.classifiers import trained_classifier
from tests.cog_client import Json, content_of, images_of, when_free
from tests.loopback import webhook
from tests.servers import end_of
from tests.services import send, service, tls_context
from tests.test_server_predict import SMALL_REQUEST
from tests.tiny import TINY_FLUX
from weights.checker import REPOSITORY

pytestmark = pytest.mark.xdist_group("servers")

COMMIT = "a" * 40
FOUR = {**SMALL_REQUEST, "num_outputs": 4}


@pytest.fixture(scope="module")
def four(predict_server: Server) -> list[bytes]:
    """The images of a server without a safety checker."""
    return images_of(predict_server, **FOUR)


@pytest.fixture(scope="module")
def server(four: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that requires the safety checker, and finds it in the Hub's cache; it blocks the second of the four. Its
    base is a tar at a URL."""
    hub = tmp_path_factory.mktemp("hub")
    folder = hub / f"models--{REPOSITORY.replace('/', '--')}"
    images = [Image.open(io.BytesIO(image)).convert("RGB") for image in four]
    trained_classifier(folder / "snapshots" / COMMIT, allowed=images[:1] + images[2:], blocked=images[1:2])
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLUX_SAFETY", "required")
        patch.setenv("HF_HUB_CACHE", str(hub))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("XDG_CACHE_HOME", str(hub / "cache"))
        patch.delenv("FLUX_BASE", raising=False)
        tls = tls_context(hub, "IP:127.0.0.1", patch)
        tar = tar_of(files_of(TINY_FLUX), root="tiny-flux/")
        with service(lambda request, _: send(request, tar, ETag='"1"'), tls=tls) as source:
            patch.setenv("FLUX_BASE_URL", f"{source.url}/flux.tar?signature=s3cret")
            with running_server("predict") as it:
                yield it


def pixels(image: bytes) -> bytes:
    """The pixels of an image, without the settings in the file, which name the base."""
    return Image.open(io.BytesIO(image)).tobytes()


def generated(server: Server, **inputs: object) -> Json:
    """Return the last event of a prediction, which has its log."""
    with webhook() as receiver:
        body = {"input": inputs, "webhook": receiver.url, "webhook_events_filter": ["completed"]}
        when_free("POST", f"{server.url}/predictions", body)
        return end_of(receiver, seconds=60)


def test_a_blocked_image_is_left_out_and_its_number_is_logged(server: Server, four: list[bytes]) -> None:
    """D35 and D37: a request cannot disable the checker if the deployment requires it."""
    event = generated(server, **FOUR, disable_safety_checker=True)
    assert [pixels(content_of(uri)) for uri in event["output"]] == [pixels(four[index]) for index in (0, 2, 3)]
    assert "blocked by the safety checker: image 2 of 4" in event["logs"]


def test_if_all_images_are_blocked_the_request_fails_with_that_reason(server: Server) -> None:
    event = generated(server, **{**SMALL_REQUEST, "seed": SMALL_REQUEST["seed"] + 1})
    assert event["status"] == "failed"
    assert "the safety checker blocked the image" in event["error"]


def test_the_setup_downloads_the_base_from_its_url_and_says_so(server: Server) -> None:
    """The test above has compared its images with those of the base on disk."""
    log = server.output.read_text()
    assert re.search(r"downloading [\d.]+ MB into \S+/flux-lora-bases/flux-", log)
    assert "the base flux is complete in " in log
    assert "s3cret" not in log


def test_the_log_of_the_setup_says_that_images_are_checked(server: Server) -> None:
    log = server.output.read_text()
    assert "safety checker: every image is checked" in log
    assert "unless a request disables it" not in log
