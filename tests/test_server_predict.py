"""Drawing through the real Cog server."""

import io
import tarfile
from pathlib import Path

import pytest

from script.cog_server import Server, running_server
from tests.cog_client import data_uri, images_of, post_prediction
from weights.bases import WEIGHTS

pytestmark = pytest.mark.xdist_group("servers")

UNPROCESSABLE = 422
# One small drawing; PNG keeps every pixel, so equal bytes are equal images.
DRAWING = {
    "prompt": "a drawing of TOK",
    "num_inference_steps": 2,
    "seed": 7,
    "output_format": "png",
    "aspect_ratio": "custom",
    "width": 64,
    "height": 64,
}
MAGIC = {"png": b"\x89PNG\r\n\x1a\n", "jpg": b"\xff\xd8\xff", "webp": b"RIFF"}


def lora_of(trained_tar: bytes) -> bytes:
    """The safetensors file in a tar."""
    with tarfile.open(fileobj=io.BytesIO(trained_tar)) as tar:
        file = tar.extractfile("output/flux_train_replicate/lora.safetensors")
        assert file is not None
        return file.read()


@pytest.mark.parametrize("output_format", ["webp", "jpg", "png"])
def test_an_image_has_the_format_asked_for(predict_server: Server, output_format: str) -> None:
    (image,) = images_of(predict_server, **{**DRAWING, "output_format": output_format})
    assert image.startswith(MAGIC[output_format])


def test_every_way_to_give_a_lora_draws_the_same_image(
    predict_server: Server, trained_tar: bytes, tmp_path: Path
) -> None:
    tar, safetensors = tmp_path / "trained_model.tar", tmp_path / "lora.safetensors"
    tar.write_bytes(trained_tar)
    safetensors.write_bytes(lora_of(trained_tar))
    uri = data_uri(trained_tar, media_type="application/x-tar")
    drawn = [images_of(predict_server, lora_weights=given, **DRAWING) for given in (uri, str(tar), str(safetensors))]
    drawn.append(images_of(predict_server, replicate_weights=uri, **DRAWING))
    assert drawn == [drawn[0]] * 4


def test_a_lora_shows_at_scale_1_and_leaves_no_trace_at_scale_0_or_without(
    predict_server: Server, trained_tar: bytes
) -> None:
    uri = data_uri(trained_tar, media_type="application/x-tar")
    bare = images_of(predict_server, **DRAWING)
    worn = images_of(predict_server, lora_weights=uri, **DRAWING)
    at_zero = images_of(predict_server, lora_weights=uri, lora_scale=0, **DRAWING)
    assert worn != bare
    assert at_zero == bare
    assert images_of(predict_server, lora_weights=uri, **DRAWING) == worn
    assert images_of(predict_server, **DRAWING) == bare


def test_images_of_one_call_equal_those_of_single_calls_with_the_next_seeds(predict_server: Server) -> None:
    together = images_of(predict_server, **{**DRAWING, "num_outputs": 2})
    apart = [images_of(predict_server, **{**DRAWING, "seed": seed})[0] for seed in (7, 8)]
    assert together == apart
    assert together[0] != together[1]


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
def test_an_input_out_of_bounds_never_becomes_a_prediction(predict_server: Server, name: str, value: object) -> None:
    answer = post_prediction(predict_server, **{**DRAWING, name: value})
    assert answer.status == UNPROCESSABLE
    assert [error["loc"] for error in answer.body["detail"]] == [["body", "input", name]]


def test_what_is_no_lora_is_refused_and_the_next_image_is_drawn(predict_server: Server) -> None:
    answer = post_prediction(predict_server, lora_weights=data_uri(b"not a LoRA"), **DRAWING)
    assert answer.body["status"] == "failed"
    assert "lora_weights" in answer.body["error"]
    assert "\n" not in answer.body["error"]
    assert images_of(predict_server, **DRAWING)


@pytest.mark.skipif((WEIGHTS / "dev").exists(), reason="weights/dev is there")
def test_a_server_without_weights_fails_with_what_is_missing_and_how_to_get_it() -> None:
    with pytest.raises(RuntimeError) as failure, running_server("predict", base="dev"):
        pass
    sentence = str(failure.value).splitlines()[-1]
    assert f"no model_index.json in {WEIGHTS / 'dev'}" in sentence
    assert "hf download black-forest-labs/FLUX.1-dev" in sentence
