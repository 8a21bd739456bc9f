"""Requests as people write them for the public FLUX LoRA predictors, by Replicate's client, are drawn unchanged."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from replicate.client import Client
from replicate.exceptions import ModelError
from safetensors.torch import save

from lora.flux.loading import load_pipeline
from lora.serving.outputs import settings_in
from script.cog_server import Server
from tests.cog_client import data_uri
from tests.fake_replicate import Replicate, fake_replicate
from tests.tiny import TINY_FLUX, random_lora

pytestmark = pytest.mark.xdist_group("servers")

Inputs = dict[str, Any]

# Every input of reference/peers.md 2.3, 2.4 and 2.5 that a person fills in, in few steps.
FINE_TUNER: Inputs = {
    "prompt": "a drawing of TOK",
    "aspect_ratio": "16:9",
    "num_outputs": 1,
    "lora_scale": 0.9,
    "num_inference_steps": 2,
    "model": "dev",
    "guidance_scale": 3.5,
    "prompt_strength": 0.8,
    "seed": 42,
    "extra_lora_scale": 0.5,
    "output_format": "png",
    "output_quality": 90,
    "disable_safety_checker": False,
}
TRAINED: Inputs = FINE_TUNER | {"guidance_scale": 3, "output_quality": 80, "go_fast": False, "megapixels": "0.25"}
DEV_LORA: Inputs = {
    **{name: value for name, value in TRAINED.items() if name not in {"model", "guidance_scale"}},
    **{"guidance": 3, "go_fast": True, "hf_api_token": "hf_none", "civitai_api_token": "none"},
}
PLAIN: Inputs = {"prompt": "a red star", "num_inference_steps": 2, "seed": 3, "output_format": "png"}


@pytest.fixture(scope="module")
def platform(predict_server: Server) -> Iterator[Replicate]:
    """Replicate in the small, where each of the predictors' names runs ours; nothing is trained."""
    with fake_replicate(trainer=predict_server, predictor=predict_server) as replicate:
        for name in ("me/tuned", "black-forest-labs/flux-dev-lora"):
            replicate.latest[name] = name
        yield replicate


@pytest.fixture(scope="module")
def client(platform: Replicate) -> Client:
    """Of that platform."""
    return Client(api_token="none", base_url=platform.url)


@pytest.fixture(scope="module")
def loras() -> list[str]:
    """Two tars as a training returns them, as data URIs."""
    transformer = load_pipeline(TINY_FLUX).transformer
    return [_tar_of(save(random_lora(transformer, rank=4, seed=seed))) for seed in (1, 2)]


def _tar_of(lora: bytes) -> str:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        member = tarfile.TarInfo("output/flux_train_replicate/lora.safetensors")
        member.size = len(lora)
        tar.addfile(member, io.BytesIO(lora))
    return data_uri(file.getvalue(), media_type="application/x-tar")


def pixels(image: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image)).convert("RGB"), dtype=int)


def drawn(client: Client, model: str, inputs: Inputs) -> bytes:
    (file,) = client.run(model, input=inputs)
    return file.read()


def settings_of(image: bytes, folder: Path) -> Inputs:
    (folder / "image").write_bytes(image)
    return settings_in(folder / "image")


@pytest.mark.parametrize("written", [FINE_TUNER, TRAINED], ids=["flux-fine-tuner", "a trained version"])
def test_a_request_for_a_fine_tuned_version_is_drawn_as_it_is_written(
    platform: Replicate, client: Client, loras: list[str], tmp_path: Path, written: Inputs
) -> None:
    """The platform fills in `replicate_weights`."""
    platform.weights["me/tuned"] = loras[0]
    found = settings_of(drawn(client, "me/tuned", {**written, "extra_lora": loras[1]}), tmp_path)
    assert [scale for _, scale in found["loras"]] == [0.9, 0.5]
    assert found["guidance_scale"] == written["guidance_scale"]
    assert (found["seed"], found["num_inference_steps"], found["aspect_ratio"]) == (42, 2, "16:9")


def test_a_request_for_flux_dev_lora_means_the_same_by_its_own_names(
    platform: Replicate, client: Client, loras: list[str], tmp_path: Path
) -> None:
    platform.weights["me/tuned"] = loras[0]
    tuned = drawn(client, "me/tuned", {**TRAINED, "extra_lora": loras[1]})
    given = {**DEV_LORA, "go_fast": False, "lora_weights": loras[0], "extra_lora": loras[1]}
    named = drawn(client, "black-forest-labs/flux-dev-lora", given)
    assert np.array_equal(pixels(named), pixels(tuned))
    assert settings_of(named, tmp_path)["guidance_scale"] == 3


def test_a_request_for_flux_dev_lora_is_drawn_as_it_is_written(
    client: Client, loras: list[str], tmp_path: Path
) -> None:
    image = drawn(client, "black-forest-labs/flux-dev-lora", {**DEV_LORA, "lora_weights": loras[0]})
    assert settings_of(image, tmp_path)["go_fast"] is True


def test_a_client_sends_an_image_and_a_mask_as_files(client: Client, tmp_path: Path) -> None:
    first = drawn(client, "black-forest-labs/flux-dev-lora", PLAIN)
    (tmp_path / "image.png").write_bytes(first)
    mask = Image.new("L", (128, 128), 0)
    mask.paste(255, (0, 0, 64, 128))
    mask.save(tmp_path / "mask.png")
    with (tmp_path / "image.png").open("rb") as image, (tmp_path / "mask.png").open("rb") as white_is_new:
        inputs = {**PLAIN, "prompt": "a blue square", "image": image, "mask": white_is_new, "prompt_strength": 1.0}
        again = drawn(client, "black-forest-labs/flux-dev-lora", inputs)
    change = np.abs(pixels(again) - pixels(first)).mean(axis=(0, 2))
    assert change[:48].mean() > 4 * change[80:].mean()


def test_a_client_is_told_how_far_its_prediction_is(client: Client) -> None:
    prediction = client.predictions.create(version="black-forest-labs/flux-dev-lora", input=PLAIN)
    prediction.wait()
    assert prediction.progress
    assert (prediction.progress.current, prediction.progress.total) == (2, 2)


def test_two_names_of_the_guidance_that_differ_are_told(client: Client) -> None:
    with pytest.raises(ModelError, match="guidance_scale is 2 and guidance is 3"):
        client.run("black-forest-labs/flux-dev-lora", input={**PLAIN, "guidance": 3, "guidance_scale": 2})


def test_a_token_is_shown_nowhere(client: Client) -> None:
    inputs = {**PLAIN, "lora_weights": "hf:none/at all", "hf_api_token": "hf_s3cret", "civitai_api_token": "civ_s3cret"}
    prediction = client.predictions.create(version="black-forest-labs/flux-dev-lora", input=inputs)
    prediction.wait()
    assert prediction.status == "failed"
    assert "s3cret" not in f"{prediction.error} {prediction.logs}"
