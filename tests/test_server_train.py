"""Training through the real Cog server."""

import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

from script.cog_server import ROOT, Server, health, running_server
from script.openapi import training_inputs
from tests.cog_client import CogResponse, Json, call, content_of, data_uri, post_training
from tests.fixtures import SHORT
from tests.loopback import served_file
from tests.servers import Tar
from tests.tiny import one_layer_lora
from weights.bases import WEIGHTS

pytestmark = pytest.mark.xdist_group("servers")

FOLDER = "output/flux_train_replicate"
UNPROCESSABLE = 422
TRAIN_ALONE = """
import json, pathlib, sys, train
inputs = json.load(sys.stdin)
print(train.train(input_images=pathlib.Path(inputs.pop("input_images")), **inputs).weights)
"""


def zip_of(**files: bytes) -> bytes:
    """A zip with these files; `_` in a name is a dot."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("_", "."), content)
    return packed.getvalue()


def assert_refused(response: CogResponse, *, naming: str) -> None:
    """The job failed with one line that names what was wrong."""
    assert response.body["status"] == "failed", response
    assert naming in response.body["error"]
    assert "\n" not in response.body["error"]


def test_the_schema_shows_the_inputs_of_both_modes(train_server: Server) -> None:
    schemas = call("GET", f"{train_server.url}/openapi.json").body["components"]["schemas"]
    assert {"input_images", "steps", "lora_rank", "resolution"} <= schemas["TrainingInput"]["properties"].keys()
    assert schemas["Input"]["required"] == ["prompt"]
    assert {"lora_weights", "lora_scale", "replicate_weights"} <= schemas["Input"]["properties"].keys()


def test_a_training_returns_the_tar_that_replicate_expects(trained_tar: bytes) -> None:
    with tarfile.open(fileobj=io.BytesIO(trained_tar), mode="r:") as tar:
        names = tar.getnames()
    captions = [f"{FOLDER}/captions/monster-{index:02}.txt" for index in range(15)]
    files = [f"{FOLDER}/{name}" for name in ("lora.safetensors", "config.yaml", "NOTICE", "README.md")]
    reports = ("dataset.json", "losses.jsonl", "training.json", "index.html", "run.json")
    assert names == [*files, *captions, *(f"{FOLDER}/report/{name}" for name in reports)]


def test_a_training_reports_its_loss_as_a_metric_and_in_its_logs(short_training: Json) -> None:
    assert short_training["metrics"]["train"]["step"] == SHORT["steps"]
    assert short_training["metrics"]["train"]["loss"] > 0
    assert f"step {SHORT['steps']}/{SHORT['steps']}" in short_training["logs"]


def test_images_by_url_train_the_same_lora_as_by_data_uri(
    train_server: Server, monster_zip: Path, trained_tar: bytes
) -> None:
    with served_file(monster_zip.read_bytes()) as url:
        response = post_training(train_server, input_images=url, **SHORT)
    assert Tar(content_of(response.body["output"]["weights"])).files == Tar(trained_tar).files


def test_a_server_trains_the_same_lora_as_a_fresh_process(monster_zip: Path, trained_tar: bytes) -> None:
    defaults = {name: schema.get("default") for name, schema in training_inputs(ROOT).items()}
    inputs = {**defaults, **SHORT, "input_images": str(monster_zip)}
    alone = subprocess.run(
        [sys.executable, "-c", TRAIN_ALONE],
        cwd=ROOT,
        env={**os.environ, "FLUX_BASE": "tiny"},
        input=json.dumps(inputs),
        capture_output=True,
        text=True,
        check=True,
    )
    assert Tar(Path(alone.stdout.splitlines()[-1]).read_bytes()).files == Tar(trained_tar).files


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", -1),
        ("steps", 6001),
        ("lora_rank", -1),
        ("lora_rank", 129),
        ("batch_size", 0),
        ("caption_dropout_rate", -0.1),
        ("caption_dropout_rate", 1.1),
    ],
)
def test_an_input_out_of_bounds_starts_no_training(train_server: Server, name: str, value: float) -> None:
    response = post_training(train_server, input_images="https://example.invalid/images.zip", **{name: value})
    assert response.status == UNPROCESSABLE
    assert [error["loc"] for error in response.body["detail"]] == [["body", "input", name]]


@pytest.mark.parametrize(
    ("inputs", "naming"),
    [
        ({"batch_size": 257}, "batch_size is 257: expected 1 to 256; for more images a step, raise"),
        ({"learning_rate": 4}, "learning_rate is 4: expected at most 1 for adamw8bit"),
        ({"optimizer": "sgd"}, "optimizer is 'sgd': expected one of adamw8bit"),
        ({"trigger_word": "a\0b"}, "trigger_word has a NUL character at position 1"),
        ({"hf_repo_id": "me/lora"}, "hf_token is missing: expected a token with write access to me/lora"),
    ],
)
def test_an_input_that_cannot_be_meant_is_refused_with_the_reason(
    train_server: Server, inputs: Json, naming: str
) -> None:
    response = post_training(train_server, **{"input_images": data_uri(b"never read"), **inputs})
    assert_refused(response, naming=naming)


def test_the_spelling_and_the_seed_of_another_trainers_client_train_the_same_lora(
    train_server: Server, monster_zip: Path, trained_tar: bytes
) -> None:
    inputs = {**SHORT, "optimizer": "AdamW8bit", "seed": 2**40 + SHORT["seed"]}
    response = post_training(train_server, input_images=data_uri(monster_zip.read_bytes()), **inputs)
    assert Tar(content_of(response.body["output"]["weights"])).files == Tar(trained_tar).files
    assert f"seed is {inputs['seed']}, beyond the largest of 2147483647: 1 is used" in response.body["logs"]


def test_a_training_without_images_is_refused(train_server: Server) -> None:
    assert_refused(post_training(train_server, **SHORT), naming="input_images is missing: expected a zip")


@pytest.mark.parametrize(
    "archive",
    [b"", b"not a zip", zip_of(readme_md=b"no images"), zip_of(a_png=b"no png"), zip_of(a_png=b"x" * 4096)[:2048]],
    ids=["empty", "not a zip", "without images", "with a broken image", "cut off"],
)
def test_an_archive_without_usable_images_is_refused_and_the_server_keeps_running(
    train_server: Server, archive: bytes
) -> None:
    response = post_training(train_server, input_images=data_uri(archive), **SHORT)
    assert_refused(response, naming="input_images")
    assert health(train_server)["status"] in {"READY", "BUSY"}


SKIP_TRAINING = "skip_training_and_use_pretrained_hf_lora_url"


def test_an_existing_lora_is_returned_without_a_training(train_server: Server) -> None:
    lora = one_layer_lora()
    body = post_training(train_server, **{SKIP_TRAINING: data_uri(save(lora)), "hf_token": "hf_s3cret"}).body
    with tarfile.open(fileobj=io.BytesIO(content_of(body["output"]["weights"]))) as tar:
        assert tar.getnames() == [f"{FOLDER}/lora.safetensors"]
        returned = load(tar.extractfile(f"{FOLDER}/lora.safetensors").read())
    assert returned.keys() == lora.keys()
    assert all(returned[name].equal(tensor) for name, tensor in lora.items())
    assert "is compatible with the base tiny" in body["logs"]
    assert "s3cret" not in json.dumps(body["logs"])


@pytest.mark.parametrize(
    ("lora", "naming"),
    [
        (b"<html>", "found a web page, expected a LoRA"),
        (save({f"transformer.proj_out.lora_{half}.weight": torch.ones(3, 3) for half in "AB"}), "is incompatible"),
    ],
    ids=["a web page", "a LoRA of another model"],
)
def test_an_existing_lora_is_refused_for_what_a_prediction_would_refuse(
    train_server: Server, lora: bytes, naming: str
) -> None:
    response = post_training(train_server, **{SKIP_TRAINING: data_uri(lora)})
    assert_refused(response, naming=SKIP_TRAINING)
    assert naming in response.body["error"]


@pytest.fixture(scope="module")
def bare_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server without a schema for its inputs and without weights of a base."""
    if (WEIGHTS / "dev").exists():
        pytest.skip("weights/dev is there")
    with pytest.MonkeyPatch.context() as patch, ExitStack() as running:
        patch.setenv("FLUX_GPU", "optional")  # else it fails for want of a GPU first
        server = running.enter_context(running_server("train", base="dev", cwd=tmp_path_factory.mktemp("bare")))
        yield server


@pytest.mark.parametrize(("name", "value"), [("steps", 10**9), ("lora_rank", -1), ("resolution", "abc")])
def test_without_a_schema_a_wrong_input_is_refused_too(bare_server: Server, name: str, value: object) -> None:
    response = post_training(bare_server, **all_inputs(name=name, value=value))
    assert_refused(response, naming=f"{name} is {value!r}")


def test_without_weights_the_error_says_which_are_missing_and_how_to_get_them(
    bare_server: Server, monster_zip: Path
) -> None:
    response = post_training(bare_server, input_images=data_uri(monster_zip.read_bytes()), **SHORT)
    assert_refused(response, naming=f"no model_index.json in {WEIGHTS / 'dev'}")
    assert "script/download dev" in response.body["error"]


def all_inputs(*, name: str, value: object) -> Json:
    """The inputs of a short training, one of them replaced."""
    return {"input_images": data_uri(b"never read"), **SHORT, name: value}
