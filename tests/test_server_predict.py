"""Predictions through the real Cog server. For those with a base of each family, see test_server_families.py."""

import hashlib
import io
import json
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from lora.images.metadata import settings_in
from script.cog_server import Server, running_server
from tests.cog_client import data_uri, images_of, post_prediction
from tests.tiny import encoded, linked_base, replace, solid_image

pytestmark = pytest.mark.xdist_group("servers")

UNPROCESSABLE = 422
# One small image; PNG is lossless, so equal bytes are equal images.
SMALL_REQUEST = {
    "prompt": "a drawing of TOK",
    "num_inference_steps": 2,
    "seed": 7,
    "output_format": "png",
    "aspect_ratio": "custom",
    "width": 64,
    "height": 64,
}
MAGIC = {"png": b"\x89PNG\r\n\x1a\n", "jpg": b"\xff\xd8\xff", "webp": b"RIFF"}


def pixels(image: bytes) -> NDArray[np.int64]:
    """The pixels of an image, without the settings in its file."""
    return np.asarray(Image.open(io.BytesIO(image)).convert("RGB"), dtype=np.int64)


def differ_little(one: bytes, other: bytes) -> bool:
    """Whether two images are equal but for rounding."""
    return bool(np.abs(pixels(one) - pixels(other)).max() <= 1)


def lora_of(trained_tar: bytes) -> bytes:
    """Return the safetensors file in a tar."""
    with tarfile.open(fileobj=io.BytesIO(trained_tar)) as tar:
        file = tar.extractfile("output/flux_train_replicate/lora.safetensors")
        assert file is not None
        return file.read()


@pytest.mark.parametrize("output_format", ["webp", "jpg", "png"])
def test_an_image_has_the_requested_format(predict_server: Server, output_format: str) -> None:
    (image,) = images_of(predict_server, **{**SMALL_REQUEST, "output_format": output_format})
    assert image.startswith(MAGIC[output_format])


def test_every_way_to_give_a_lora_gives_the_same_image(
    predict_server: Server, trained_tar: bytes, tmp_path: Path
) -> None:
    tar, safetensors = tmp_path / "trained_model.tar", tmp_path / "lora.safetensors"
    tar.write_bytes(trained_tar)
    safetensors.write_bytes(lora_of(trained_tar))
    uri = data_uri(trained_tar, media_type="application/x-tar")
    images = [
        images_of(predict_server, lora_weights=given, **SMALL_REQUEST) for given in (uri, str(tar), str(safetensors))
    ]
    images.append(images_of(predict_server, replicate_weights=uri, **SMALL_REQUEST))
    assert images == [images[0]] * 4


def test_a_prediction_has_metrics_of_its_images_steps_and_seconds(predict_server: Server, trained_tar: bytes) -> None:
    """The steps are those that were computed: half of them with a source at half strength, for each image."""
    inputs = {**SMALL_REQUEST, "num_inference_steps": 4, "num_outputs": 2, "prompt_strength": 0.5}
    image = data_uri(encoded(solid_image(64, 64)), media_type="image/png")
    uri = data_uri(trained_tar, media_type="application/x-tar")
    response = post_prediction(predict_server, image=image, lora_weights=uri, **inputs)
    metrics = response.body["metrics"]["predict"]
    lora_seconds, image_seconds = metrics.pop("lora_seconds"), metrics.pop("image_seconds")
    assert metrics == {"image_count": 2, "megapixels": 2 * 64 * 64 / 1e6, "steps": 4}
    assert 0 < lora_seconds < image_seconds + lora_seconds < response.body["metrics"]["predict_time"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("width", 63),
        ("width", 1441),
        ("num_outputs", 0),
        ("num_outputs", 5),
        ("lora_scale", -1.1),
        ("lora_scale", 3.1),
        ("aspect_ratio", "2:1"),
    ],
)
def test_an_input_out_of_bounds_is_refused_by_the_server(predict_server: Server, name: str, value: object) -> None:
    response = post_prediction(predict_server, **{**SMALL_REQUEST, name: value})
    assert response.status == UNPROCESSABLE
    assert [error["loc"] for error in response.body["detail"]] == [["body", "input", name]]


@pytest.mark.parametrize("seed", [2**31 + 7, 2**62 + 7, -5, 10**30])
def test_any_seed_of_another_predictors_client_is_taken(predict_server: Server, seed: int) -> None:
    """The log has the seed that was used, which Cog's command line takes too; a larger one is reduced with a note."""
    response = post_prediction(predict_server, **{**SMALL_REQUEST, "seed": seed})
    assert response.body["status"] == "succeeded", response
    (line,) = [line for line in response.body["logs"].splitlines() if line.startswith("settings: ")]
    (used,) = json.loads(line.removeprefix("settings: "))["seeds"]
    assert used == 7 or (seed not in (2**31 + 7, 2**62 + 7) and 0 <= used < 2**31)
    assert (f"{used} is used" in response.body["logs"]) is (seed > 0)


@pytest.mark.parametrize("name", ["image", "mask", "prompt"])
def test_a_nul_character_is_refused_in_one_sentence(predict_server: Server, name: str) -> None:
    response = post_prediction(predict_server, **{**SMALL_REQUEST, name: "a\0b"})
    assert response.body["status"] == "failed"
    assert f"{name} has a NUL character" in response.body["error"]
    assert "\n" not in response.body["error"]


def test_a_strength_of_almost_0_keeps_the_image(predict_server: Server) -> None:
    source = data_uri(encoded(solid_image(80, 96)), media_type="image/png")
    kept, almost = (
        images_of(predict_server, image=source, prompt_strength=strength, **SMALL_REQUEST) for strength in (0, 1e-17)
    )
    assert almost == kept


def test_an_image_with_a_chosen_aspect_ratio_is_noted_in_the_log(predict_server: Server) -> None:
    source = data_uri(encoded(solid_image(80, 96)), media_type="image/png")
    inputs = {**SMALL_REQUEST, "image": source, "aspect_ratio": "16:9", "prompt_strength": 0}
    assert "note: aspect_ratio 16:9 is ignored" in post_prediction(predict_server, **inputs).body["logs"]


def test_a_server_with_truncated_weights_fails_and_says_which_file_and_what_to_do(tmp_path: Path) -> None:
    folder = linked_base(tmp_path / "base")
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    replace(file, file.read_bytes()[:-1000])
    with pytest.raises(RuntimeError) as failure, running_server("predict", base=str(folder)):
        pass
    sentence = str(failure.value).splitlines()[-1]
    assert f"the base folder base: {file} is cut short, 1,000 bytes are missing" in sentence
    assert "remove it, then copy that file again" in sentence


def test_a_lora_can_be_applied_with_another_and_in_a_list(predict_server: Server, trained_tar: bytes) -> None:
    uri = data_uri(trained_tar, media_type="application/x-tar")
    bare = images_of(predict_server, **SMALL_REQUEST)
    once, twice = (
        images_of(predict_server, lora_weights=uri, lora_scale=scale, **SMALL_REQUEST) for scale in (0.5, 1.0)
    )
    alone = images_of(predict_server, extra_lora=uri, extra_lora_scale=0.5, **SMALL_REQUEST)
    listed = images_of(predict_server, loras=[f"{uri}:0.5"], **SMALL_REQUEST)
    assert alone == listed == once != bare
    both = images_of(
        predict_server, lora_weights=uri, lora_scale=2, extra_lora=uri, extra_lora_scale=-1, **SMALL_REQUEST
    )
    assert differ_little(both[0], twice[0])
    assert images_of(predict_server, **SMALL_REQUEST) == bare


def test_a_client_cannot_read_an_image_on_the_servers_disk(predict_server: Server, tmp_path: Path) -> None:
    """D10."""
    Image.new("RGB", (64, 64)).save(tmp_path / "private.png")
    response = post_prediction(predict_server, image=str(tmp_path / "private.png"), **SMALL_REQUEST)
    assert response.body["status"] == "failed"
    assert f"image is the path '{tmp_path / 'private.png'}'" in response.body["error"]


@pytest.mark.parametrize("name", ["lora_weights", "extra_lora", "replicate_weights", "loras"])
def test_a_client_cannot_learn_which_loras_are_on_the_servers_disk(
    predict_server: Server, trained_tar: bytes, name: str
) -> None:
    with tempfile.NamedTemporaryFile(suffix=".tar") as file:  # not in the folder of the tests, which is allowed
        file.write(trained_tar)
        file.flush()
        missing = file.name.replace(".tar", "-not.tar")
        answers = [
            post_prediction(predict_server, **{name: [path] if name == "loras" else path}, **SMALL_REQUEST).body
            for path in (file.name, missing)
        ]
    assert f": {name}" in answers[0]["error"]
    assert f" {file.name!r} is outside of the folders that requests may read" in answers[0]["error"]
    assert answers[0]["error"].replace(file.name, missing) == answers[1]["error"]


def test_guidance_by_either_name_is_the_same(predict_server: Server) -> None:
    one, other = (images_of(predict_server, **{name: 2}, **SMALL_REQUEST) for name in ("guidance", "guidance_scale"))
    assert pixels(one[0]).tolist() == pixels(other[0]).tolist()
    response = post_prediction(predict_server, guidance=2, guidance_scale=3, **SMALL_REQUEST)
    assert "guidance_scale is 3 and guidance is 2" in response.body["error"]


def test_an_image_contains_its_settings(predict_server: Server, tmp_path: Path) -> None:
    (tmp_path / "out.png").write_bytes(images_of(predict_server, **SMALL_REQUEST)[0])
    settings = settings_in(tmp_path / "out.png")
    assert (settings["prompt"], settings["seed"], settings["model"]) == (SMALL_REQUEST["prompt"], 7, "tiny")
    assert settings["num_inference_steps"] == 2


def test_an_image_contains_the_sha256_of_its_source_and_its_true_size(predict_server: Server, tmp_path: Path) -> None:
    image, mask = encoded(solid_image(80, 96)), encoded(Image.new("L", (80, 96), 255))
    given = {"image": data_uri(image), "mask": data_uri(mask), "prompt_strength": 0.5}
    (tmp_path / "out.png").write_bytes(images_of(predict_server, **SMALL_REQUEST, **given)[0])
    settings = settings_in(tmp_path / "out.png")
    assert settings["image"] == hashlib.sha256(image).hexdigest()
    assert settings["mask"] == hashlib.sha256(mask).hexdigest()
    assert settings["prompt_strength"] == 0.5
    assert (settings["width"], settings["height"]) == (80, 96) == Image.open(tmp_path / "out.png").size


def test_blank_text_is_no_image_and_no_mask(predict_server: Server) -> None:
    assert images_of(predict_server, image=" ", mask="", **SMALL_REQUEST) == images_of(predict_server, **SMALL_REQUEST)
