"""Archives through the real Cog server: whatever is sent, the next job finds a server that is as good as new."""

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
from tests.conftest import SHORT
from tests.loopback import served_file
from tests.servers import Place, wait_until
from tests.tiny import assert_one_sentence, encoded, noisy_image, picture, zipped

pytestmark = pytest.mark.xdist_group("servers")

MONSTER = (ROOT / "script/data/monster.zip").read_bytes()
SECONDS_TO_CANCEL = 10  # two on a machine that does nothing else


@pytest.fixture(scope="module")
def first_tar(place: Place) -> bytes:
    """What the server made of the monster before any archive was refused."""
    return trained(place, data_uri(MONSTER))


def trained(place: Place, images: str, **inputs: object) -> bytes:
    """The tar of a training."""
    answer = post_training(place.server, input_images=images, **SHORT | inputs)
    assert answer.body.get("status") == "succeeded", answer
    return content_of(answer.body["output"]["weights"])


def tensors_of(tar: bytes) -> dict[str, object]:
    """The LoRA in a tar."""
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        return load(opened.extractfile(LORA_NAME).read())


def same(one: bytes, other: bytes) -> bool:
    """Whether two tars hold the same LoRA, bit for bit."""
    ours, theirs = tensors_of(one), tensors_of(other)
    return ours.keys() == theirs.keys() and all(ours[name].equal(theirs[name]) for name in ours)


def a_bomb() -> bytes:
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
    "a bomb": a_bomb(),
    "a zip in a zip": zipped({"inner.zip": MONSTER}),
    "half a zip": MONSTER[: len(MONSTER) // 2],
    "a part of a tar": tarred("w")[:30_000],
    "a part of a tar.gz": tarred("w:gz")[:30_000],
    "bad images": zipped({"a.png": encoded(picture()), "b.png": b"bad", "c.jpg": b"bad"}),
    "a bad table": zipped({"a.png": encoded(picture()), "captions.json": "[5]"}),
}


def test_a_refused_archive_leaves_nothing_and_the_next_job_is_as_good_as_the_first(place: Place, first_tar: bytes):
    before = place.left_over()
    for name, archive in REFUSED.items():
        answer = post_training(place.server, input_images=data_uri(archive), **SHORT)
        assert answer.body["status"] == "failed", name
        assert_one_sentence(answer.body["error"], "input_images ")
        assert str(place.temporary) not in answer.body["error"], name
        assert place.left_over() <= before, name
    assert trained(place, data_uri(MONSTER)) == first_tar


def test_a_tar_trains_the_same_lora_as_a_zip(place: Place, first_tar: bytes):
    """By data URI and by a URL without a suffix."""
    assert trained(place, data_uri(tarred("w:gz"), media_type="application/octet-stream")) == first_tar
    with served_file(tarred("w:gz")) as url:
        assert trained(place, url) == first_tar


def test_the_disk_cache_gives_the_same_lora_bit_for_bit(place: Place):
    filled = trained(place, data_uri(MONSTER), cache_latents_to_disk=True)
    kept = {path: path.stat().st_mtime_ns for path in place.cache.rglob("*.safetensors")}
    reused = trained(place, data_uri(MONSTER), cache_latents_to_disk=True)
    assert len(kept) > len(json.loads(report_of(filled))["images"])
    assert set(place.cache.rglob("*.safetensors")) == set(kept)
    assert filled == reused


def test_the_log_shows_what_will_be_trained(place: Place):
    answer = post_training(place.server, input_images=data_uri(MONSTER), autocaption_suffix="by a lake", **SHORT)
    text = Path(place.server.output).read_text(errors="replace")
    assert answer.body["status"] == "succeeded"
    assert "15 images, 15 with a caption: 15 from .txt files" in text
    assert "TOK on a white background by a lake" in text


def test_a_tar_gives_its_captions_to_the_next_training(place: Place):
    captioned = {f"x/{index}.png": encoded(noisy_image(128, 128, seed=index)) for index in range(3)}
    table = {"metadata.jsonl": "\n".join(json.dumps({"file_name": name, "text": f"TOK {name}"}) for name in captioned)}
    tar = trained(place, data_uri(zipped(captioned | table)))
    again = trained(place, data_uri(zipped(captioned)), input_captions=data_uri(tar, media_type="application/x-tar"))
    assert [image["prompt"] for image in json.loads(report_of(again))["images"]] == [
        f"TOK {name}" for name in captioned
    ]
    assert same(tar, again)


def report_of(tar: bytes) -> bytes:
    """The report on the data set."""
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        return opened.extractfile(f"{FOLDER}/report/dataset.json").read()


def test_a_training_cancelled_while_it_reads_ends_at_once_and_leaves_nothing(place: Place, first_tar: bytes):
    """1,600 megapixels take long to decode; the server is as new afterwards."""
    before = place.left_over()
    large = encoded(picture(4000, 4000), "JPEG")
    with served_file(zipped({f"{index}.jpg": large + bytes([index]) for index in range(100)})) as url:
        body: Json = {"input": {"input_images": url, **SHORT}}
        when_free("PUT", f"{place.server.url}/trainings/long", body, prefer="respond-async")
        wait_until(lambda: any("flux-lora-train" in name for name in place.left_over() - before), seconds=60)
        time.sleep(1)
        began = time.monotonic()
        call("POST", f"{place.server.url}/trainings/long/cancel", {})
        wait_until(lambda: health(place.server)["status"] == "READY", seconds=SECONDS_TO_CANCEL)
        print(f"\ncancelled in {time.monotonic() - began:.1f} s")
    wait_until(lambda: place.left_over() <= before, seconds=SECONDS_TO_CANCEL)
    assert trained(place, data_uri(MONSTER)) == first_tar
