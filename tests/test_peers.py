"""Requests in the form of the public FLUX LoRA predictors, sent by Replicate's client, work unchanged."""

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

from lora.families.loading import load_pipeline
from lora.images.metadata import settings_in
from script.cog_server import Server
from tests.cog_client import data_uri
from tests.fake_replicate import Replicate, fake_replicate
from tests.tiny import TINY_FLUX, random_lora

pytestmark = pytest.mark.xdist_group("servers")

Inputs = dict[str, Any]

# Every input that a user sets, from reference/peers.md 2.3, 2.4 and 2.5, with few steps
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
    """A small Replicate in which the names of the public predictors run our predictor; nothing is trained."""
    with fake_replicate(trainer=predict_server, predictor=predict_server) as replicate:
        names = ("black-forest-labs/flux-dev-lora", "lucataco/flux-dev-lora", "lucataco/flux-dev-multi-lora")
        for name in ("me/tuned", *names):
            replicate.latest[name] = name
        yield replicate


@pytest.fixture(scope="module")
def client(platform: Replicate) -> Client:
    """Replicate's client, connected to that platform."""
    return Client(api_token="none", base_url=platform.url)


@pytest.fixture(scope="module")
def loras() -> list[str]:
    """Two tars in the form of a training's output, as data URIs."""
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


def generate(client: Client, model: str, inputs: Inputs) -> bytes:
    (file,) = client.run(model, input=inputs)
    return file.read()


def settings_of(image: bytes, folder: Path) -> Inputs:
    (folder / "image").write_bytes(image)
    return settings_in(folder / "image")


@pytest.mark.parametrize("inputs", [FINE_TUNER, TRAINED], ids=["flux-fine-tuner", "a trained version"])
def test_a_request_to_a_fine_tuned_version_works_unchanged(
    platform: Replicate, client: Client, loras: list[str], tmp_path: Path, inputs: Inputs
) -> None:
    """The platform fills in `replicate_weights`."""
    platform.weights["me/tuned"] = loras[0]
    settings = settings_of(generate(client, "me/tuned", {**inputs, "extra_lora": loras[1]}), tmp_path)
    assert [scale for _, scale in settings["loras"]] == [0.9, 0.5]
    assert settings["guidance_scale"] == inputs["guidance_scale"]
    assert (settings["seed"], settings["num_inference_steps"], settings["aspect_ratio"]) == (42, 2, "16:9")


def test_a_request_to_flux_dev_lora_means_the_same_with_its_own_input_names(
    platform: Replicate, client: Client, loras: list[str], tmp_path: Path
) -> None:
    platform.weights["me/tuned"] = loras[0]
    fine_tuned = generate(client, "me/tuned", {**TRAINED, "extra_lora": loras[1]})
    inputs = {**DEV_LORA, "go_fast": False, "lora_weights": loras[0], "extra_lora": loras[1]}
    with_own_names = generate(client, "black-forest-labs/flux-dev-lora", inputs)
    assert np.array_equal(pixels(with_own_names), pixels(fine_tuned))
    assert settings_of(with_own_names, tmp_path)["guidance_scale"] == 3


def test_a_request_to_flux_dev_lora_works_unchanged(client: Client, loras: list[str], tmp_path: Path) -> None:
    image = generate(client, "black-forest-labs/flux-dev-lora", {**DEV_LORA, "lora_weights": loras[0]})
    assert settings_of(image, tmp_path)["go_fast"] is True


def test_a_request_to_lucatacos_predictor_means_the_same_with_its_own_input_names(
    client: Client, loras: list[str]
) -> None:
    theirs = generate(client, "lucataco/flux-dev-lora", {**PLAIN, "hf_lora": loras[0], "lora_scale": 0.8})
    several = generate(client, "lucataco/flux-dev-multi-lora", {**PLAIN, "hf_loras": [loras[0]]})
    ours = generate(client, "lucataco/flux-dev-lora", {**PLAIN, "lora_weights": loras[0], "lora_scale": 0.8})
    assert np.array_equal(pixels(theirs), pixels(ours))
    assert np.array_equal(pixels(several), pixels(ours))


def test_a_client_sends_an_image_and_a_mask_as_files(client: Client, tmp_path: Path) -> None:
    original = generate(client, "black-forest-labs/flux-dev-lora", PLAIN)
    (tmp_path / "image.png").write_bytes(original)
    mask = Image.new("L", (128, 128), 0)
    mask.paste(255, (0, 0, 64, 128))
    mask.save(tmp_path / "mask.png")
    with (tmp_path / "image.png").open("rb") as image, (tmp_path / "mask.png").open("rb") as mask_file:
        inputs = {**PLAIN, "prompt": "a blue square", "image": image, "mask": mask_file, "prompt_strength": 1.0}
        edited = generate(client, "black-forest-labs/flux-dev-lora", inputs)
    difference = np.abs(pixels(edited) - pixels(original)).mean(axis=(0, 2))
    assert difference[:48].mean() > 4 * difference[80:].mean()


def test_a_client_sees_the_progress_of_its_prediction(client: Client) -> None:
    prediction = client.predictions.create(version="black-forest-labs/flux-dev-lora", input=PLAIN)
    prediction.wait()
    assert prediction.progress
    assert (prediction.progress.current, prediction.progress.total) == (2, 2)


def test_two_different_values_of_the_guidance_are_refused(client: Client) -> None:
    with pytest.raises(ModelError, match="guidance_scale is 2 and guidance is 3"):
        client.run("black-forest-labs/flux-dev-lora", input={**PLAIN, "guidance": 3, "guidance_scale": 2})


def test_a_token_appears_neither_in_the_error_nor_in_the_logs(client: Client) -> None:
    inputs = {**PLAIN, "lora_weights": "hf:none/at all", "hf_api_token": "hf_s3cret", "civitai_api_token": "civ_s3cret"}
    prediction = client.predictions.create(version="black-forest-labs/flux-dev-lora", input=inputs)
    prediction.wait()
    assert prediction.status == "failed"
    assert "s3cret" not in f"{prediction.error} {prediction.logs}"
