"""A user of Replicate trains a LoRA for a base of each family and generates with it, with Replicate's Python client."""

import io
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from replicate.client import Client
from replicate.exceptions import ModelError

from script.cog_server import Server
from tests.cog_client import Json
from tests.fake_replicate import fake_replicate
from tests.families import FIRST, KLEIN, TinyBase
from tests.fixtures import SHORT
from tests.servers import TrainServers
from tests.tiny import encoded, noisy_image

pytestmark = pytest.mark.xdist_group("servers")

TRAINER = f"me/flux-lora:{'0' * 64}"
SMALL_REQUEST = {"prompt": "a drawing of TOK", "num_inference_steps": 2, "seed": 7, "output_format": "png"}


@pytest.fixture(scope="module", params=[FIRST, KLEIN], ids=lambda tiny: tiny.family.name)
def tiny(request: pytest.FixtureRequest) -> TinyBase:
    return request.param


@pytest.fixture(scope="module")
def small_request(tiny: TinyBase) -> Json:
    """The inputs of a small image of the base; the predictor has both."""
    return SMALL_REQUEST if tiny is FIRST else {**SMALL_REQUEST, "model": "klein"}


@pytest.fixture(scope="module")
def client(
    tiny: TinyBase, train_server: Server, klein_servers: TrainServers, predict_server: Server
) -> Iterator[Client]:
    """Replicate's client, connected to a platform that trains on the base and generates."""
    trainer = train_server if tiny is FIRST else klein_servers.running().server
    with fake_replicate(trainer=trainer, predictor=predict_server) as replicate:
        yield Client(api_token="none", base_url=replicate.url)


@pytest.fixture(scope="module")
def version(client: Client, monster_zip: Path) -> str:
    """The version that a training created for its destination."""
    with monster_zip.open("rb") as images:
        training = client.trainings.create(
            version=TRAINER, input={"input_images": images, **SHORT}, destination="me/monster"
        )
    while training.status not in {"succeeded", "failed"}:
        time.sleep(0.5)
        training.reload()
    assert training.output, training.error
    return training.output["version"]


def test_a_training_creates_a_new_version_of_the_destination(version: str) -> None:
    assert version.startswith("me/monster:")


def test_a_trained_version_generates_with_its_lora(client: Client, version: str, small_request: Json) -> None:
    (trained,) = client.run(version, input=small_request)
    (base,) = client.run(TRAINER, input=small_request)
    image = trained.read()
    assert Image.open(io.BytesIO(image)).format == "PNG"
    assert image != base.read()


def test_the_destination_runs_its_latest_version(client: Client, version: str, small_request: Json) -> None:
    (latest,) = client.run("me/monster", input=small_request)
    (trained,) = client.run(version, input=small_request)
    assert latest.read() == trained.read()


@pytest.mark.parametrize("tiny", [FIRST], indirect=True, ids=lambda tiny: tiny.family.name)
def test_the_error_for_an_invalid_input_names_the_input(client: Client) -> None:
    with pytest.raises(ModelError, match="num_outputs"):
        client.run(TRAINER, input={**SMALL_REQUEST, "num_outputs": 5})


@pytest.mark.parametrize("tiny", [FIRST], indirect=True, ids=lambda tiny: tiny.family.name)
def test_a_list_of_files_is_seen_by_a_base_that_takes_reference_images_and_refused_by_another(client: Client) -> None:
    files = [io.BytesIO(encoded(noisy_image(96, 64, seed=seed))) for seed in (1, 2)]
    (edited,) = client.run(TRAINER, input={**SMALL_REQUEST, "model": "klein", "reference_images": files})
    assert Image.open(io.BytesIO(edited.read())).size == (96, 64)
    with pytest.raises(ModelError, match="reference_images needs a base that takes reference images, and tiny takes"):
        client.run(TRAINER, input={**SMALL_REQUEST, "reference_images": files})
