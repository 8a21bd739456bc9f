"""The files that a request to the training server may name, and what stays of those that Cog downloaded."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cog_client import content_of, data_uri, post_training
from tests.loopback import served_file
from tests.servers import OF_WORKER, Tar, TrainServer
from tests.tiny import assert_one_sentence, encoded, noisy_image, zipped

pytestmark = pytest.mark.xdist_group("servers")

SHORT = {"steps": 1, "resolution": "64", "lora_rank": 2, "sample_prompts": "none", "preservation": 0.0}
IMAGES = zipped({f"{index}.png": encoded(noisy_image(64, 64, seed=index)) for index in range(2)})
OUTSIDE = "outside of the folders that requests may read: expected an https:// URL"


@pytest.fixture(scope="module")
def private() -> Iterator[Path]:
    """A folder that no request may read, with files that would be read."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "photos.zip").write_bytes(IMAGES)
        (folder / "manifest.json").write_text("{}")
        yield folder


def refusal(place: TrainServer, **inputs: object) -> str:
    """The error of a training that does not start."""
    response = post_training(place.server, **{"input_images": data_uri(IMAGES), **SHORT, **inputs})
    assert response.body["status"] == "failed", response
    assert_one_sentence(response.body["error"])
    return response.body["error"]


@pytest.mark.parametrize("name", ["input_images", "input_captions", "resume_from"])
def test_the_answer_to_a_path_elsewhere_does_not_tell_whether_it_exists(
    place: TrainServer, private: Path, tmp_path: Path, name: str
) -> None:
    there, not_there = tmp_path / "there", tmp_path / "gone"
    there.symlink_to(private / "photos.zip")
    not_there.symlink_to(private / "nothing")
    pairs = [
        (private / "photos.zip", private / "nothing.zip"),
        (private, private / "nothing"),
        (tmp_path / f"../../../..{private}/photos.zip", tmp_path / f"../../../..{private}/nothing.zip"),
        (f"/proc/self/root{private}/photos.zip", f"/proc/self/root{private}/nothing.zip"),
        ("/proc/self/environ", "/proc/self/nothing"),
        (there, not_there),
    ]
    for existing, missing in pairs:
        answers = [refusal(place, **{name: str(path)}) for path in (existing, missing)]
        assert f"{name} is the path {str(existing)!r}, {OUTSIDE}" in answers[0]
        assert answers[0].replace(repr(str(existing)), "") == answers[1].replace(repr(str(missing)), "")


@pytest.mark.parametrize("name", ["input_images", "input_captions", "resume_from"])
def test_a_file_url_does_not_tell_whether_a_file_exists(place: TrainServer, private: Path, name: str) -> None:
    existing, missing = f"file://{private}/photos.zip", f"file://{private}/nothing.zip"
    answers = [refusal(place, **{name: url}) for url in (existing, missing)]
    assert answers[0].replace("photos.zip", "nothing.zip") == answers[1]


def test_a_path_in_a_folder_that_the_deployment_allows_trains_the_same_lora_as_an_upload(
    place: TrainServer, tmp_path: Path
) -> None:
    (tmp_path / "photos.zip").write_bytes(IMAGES)
    response = post_training(place.server, input_images=str(tmp_path / "photos.zip"), **SHORT)
    assert Tar(content_of(response.body["output"]["weights"])).files == place.train(IMAGES, **SHORT).files
    assert (tmp_path / "photos.zip").exists()


def test_a_checkpoint_that_the_log_names_can_be_resumed_by_its_path(place: TrainServer) -> None:
    before = set(place.checkpoints.glob("*/*/step-*"))
    first = place.train(IMAGES, **SHORT, seed=8)
    (checkpoint,) = set(place.checkpoints.glob("*/*/step-*")) - before
    assert place.train(IMAGES, **SHORT, seed=8, resume_from=str(checkpoint)).same_lora(first)


def test_uploads_of_a_failed_request_are_deleted_at_the_next_one(place: TrainServer) -> None:
    """Cog leaves the photos if another of its downloads fails."""
    with served_file(IMAGES) as url:
        error = refusal(place, input_images=url, input_captions=f"{url.rpartition('/files')[0]}:1/captions.zip")
    assert "Input validation error" in error
    (folder,) = place.temporary.glob(f"{OF_WORKER}*")
    left = [path for path in folder.iterdir() if path.is_file()]
    assert left
    place.train(IMAGES, **SHORT)
    assert not any(path.exists() for path in left)
    assert not [path for path in folder.iterdir() if path.is_file()]
