"""Archives sent to the real Cog server: whatever a job receives, the next job is not affected by it."""

import io
import json
import tarfile
import time
import zipfile
from pathlib import Path

import pytest
from safetensors.torch import load

from lora.training.result.output import FOLDER, LORA_NAME
from script.cog_server import ROOT, health
from tests.cog_client import Json, call, content_of, data_uri, post_training, when_free
from tests.fixtures import SHORT
from tests.loopback import served_file
from tests.servers import Tar, TrainServer, wait_until
from tests.tiny import assert_one_sentence, encoded, noisy_image, solid_image, zipped

pytestmark = pytest.mark.xdist_group("servers")

MONSTER = (ROOT / "script/data/monster.zip").read_bytes()
SECONDS_TO_CANCEL = 10  # two seconds on an idle machine


@pytest.fixture(scope="module")
def first_tar(trained_tar: bytes) -> bytes:
    """The tar that the server trained on the monster before it refused any archive."""
    return trained_tar


def trained(place: TrainServer, images: str, **inputs: object) -> bytes:
    """The tar of a training."""
    response = post_training(place.server, input_images=images, **SHORT | inputs)
    assert response.body.get("status") == "succeeded", response
    return content_of(response.body["output"]["weights"])


def tensors_of(tar: bytes) -> dict[str, object]:
    """The LoRA in a tar."""
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        return load(opened.extractfile(LORA_NAME).read())


def have_same_lora(one: bytes, other: bytes) -> bool:
    """Whether two tars hold the same LoRA, bit for bit."""
    first_tensors, other_tensors = tensors_of(one), tensors_of(other)
    return first_tensors.keys() == other_tensors.keys() and all(
        first_tensors[name].equal(other_tensors[name]) for name in first_tensors
    )


def bomb() -> bytes:
    return zipped({"a.png": bytes(2**26)}, compression=zipfile.ZIP_DEFLATED)


def tarred(mode: str) -> bytes:
    """The monster's images and captions as another kind of archive."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(MONSTER)) as source, tarfile.open(fileobj=file, mode=mode) as tar:
        for name in source.namelist():
            info, content = tarfile.TarInfo(name), source.read(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


REFUSED = {
    "nothing": b"",
    "a web page": b"<html>404</html>",
    "no image": zipped({"a.txt": "a dog"}),
    "a bomb": bomb(),
    "a zip in a zip": zipped({"inner.zip": MONSTER}),
    "half a zip": MONSTER[: len(MONSTER) // 2],
    "a part of a tar": tarred("w")[:30_000],
    "a part of a tar.gz": tarred("w:gz")[:30_000],
    "bad images": zipped({"a.png": encoded(solid_image()), "b.png": b"bad", "c.jpg": b"bad"}),
    "a bad table": zipped({"a.png": encoded(solid_image()), "captions.json": "[5]"}),
}


def test_a_refused_archive_leaves_no_files_and_does_not_affect_the_next_job(place: TrainServer, first_tar: bytes):
    before = place.left_over()
    for name, archive in REFUSED.items():
        response = post_training(place.server, input_images=data_uri(archive), **SHORT)
        assert response.body["status"] == "failed", name
        assert_one_sentence(response.body["error"], "input_images ")
        assert str(place.temporary) not in response.body["error"], name
        assert place.left_over() <= before, name
    assert Tar(trained(place, data_uri(MONSTER))).files == Tar(first_tar).files


def test_a_tar_trains_the_same_lora_as_a_zip(place: TrainServer, first_tar: bytes):
    """The tar.gz is sent as a data URI, and as a URL without a suffix."""
    assert (
        Tar(trained(place, data_uri(tarred("w:gz"), media_type="application/octet-stream"))).files
        == Tar(first_tar).files
    )
    with served_file(tarred("w:gz")) as url:
        assert Tar(trained(place, url)).files == Tar(first_tar).files


def test_the_disk_cache_gives_the_same_lora_bit_for_bit(place: TrainServer):
    filled = trained(place, data_uri(MONSTER), cache_latents_to_disk=True)
    cached_files = {path: path.stat().st_mtime_ns for path in place.cache.rglob("*.safetensors")}
    reused = trained(place, data_uri(MONSTER), cache_latents_to_disk=True)
    assert len(cached_files) > len(json.loads(report_of(filled))["images"])
    assert set(place.cache.rglob("*.safetensors")) == set(cached_files)
    assert Tar(filled).files == Tar(reused).files


def test_the_log_shows_the_images_and_prompts_of_the_training(place: TrainServer):
    response = post_training(place.server, input_images=data_uri(MONSTER), autocaption_suffix="by a lake", **SHORT)
    text = Path(place.server.output).read_text(errors="replace")
    assert response.body["status"] == "succeeded"
    assert "15 images, 15 with a caption: 15 from .txt files" in text
    assert "TOK on a white background by a lake" in text


def test_the_tar_of_a_training_works_as_input_captions_of_another(place: TrainServer):
    captioned = {f"x/{index}.png": encoded(noisy_image(128, 128, seed=index)) for index in range(3)}
    table = {"metadata.jsonl": "\n".join(json.dumps({"file_name": name, "text": f"TOK {name}"}) for name in captioned)}
    tar = trained(place, data_uri(zipped(captioned | table)))
    again = trained(place, data_uri(zipped(captioned)), input_captions=data_uri(tar, media_type="application/x-tar"))
    assert [image["prompt"] for image in json.loads(report_of(again))["images"]] == [
        f"TOK {name}" for name in captioned
    ]
    assert have_same_lora(tar, again)


def report_of(tar: bytes) -> bytes:
    """The report on the data set in a tar."""
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        return opened.extractfile(f"{FOLDER}/report/dataset.json").read()


def test_a_training_cancelled_while_reading_ends_at_once_and_leaves_no_files(place: TrainServer, first_tar: bytes):
    """1,600 megapixels take long to decode; the next job trains the same LoRA as before."""
    before = place.left_over()
    large = encoded(solid_image(4000, 4000), "JPEG")
    with served_file(zipped({f"{index}.jpg": large + bytes([index]) for index in range(100)})) as url:
        body: Json = {"input": {"input_images": url, **SHORT}}
        when_free("PUT", f"{place.server.url}/trainings/long", body, prefer="respond-async")
        wait_until(lambda: any("flux-lora-train" in name for name in place.left_over() - before), seconds=60)
        time.sleep(1)
        start = time.monotonic()
        call("POST", f"{place.server.url}/trainings/long/cancel", {})
        wait_until(lambda: health(place.server)["status"] == "READY", seconds=SECONDS_TO_CANCEL)
        print(f"\ncancelled in {time.monotonic() - start:.1f} s")
    wait_until(lambda: place.left_over() <= before, seconds=SECONDS_TO_CANCEL)
    assert Tar(trained(place, data_uri(MONSTER))).files == Tar(first_tar).files
