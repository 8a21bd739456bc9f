"""Shared fixtures: the training images, both real Cog servers on the tiny base, one training, and a warm Python."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from script.cog_server import ROOT, Server, running_server
from tests.browsers import running_browser
from tests.cog_client import Json, content_of, data_uri, post_training
from tests.servers import TrainServer, TrainServers, isolated_train_server, project_with_klein
from tests.warm_python import running_warm_python

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# A training that takes seconds; its learning rate is high, so that the LoRA visibly changes the images.
SHORT = {
    "steps": 2,
    "resolution": "64",
    "lora_rank": 4,
    "batch_size": 1,
    "seed": 1,
    "learning_rate": 0.01,
    "sample_prompts": "none",
    "preservation": 0.0,  # its images, and the texts of them, are no part of what such a training is for
}


@pytest.fixture(scope="session", autouse=True)
def checkpoints_in_a_temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Let the tests keep their checkpoints in this folder instead of the user's home, and name files beside it."""
    folder = tmp_path_factory.mktemp("all-checkpoints")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLUX_LORA_CHECKPOINTS", str(folder))
        patch.setenv("FLUX_LORA_FILES", str(tmp_path_factory.getbasetemp()))  # requests may name files in here
        yield folder


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainServer]:
    """A Cog server that trains, with its own folders and the embedded captioner. It is ready before and after each
    test."""
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:  # only until it has started: other tests find no captioner
            patch.setenv("FLUX_CAPTIONER", "tiny")
            place = stack.enter_context(isolated_train_server(tmp_path_factory))
        yield place


@pytest.fixture(scope="session")
def train_server(place: TrainServer) -> Server:
    """The train server without its folders."""
    return place.server


@pytest.fixture(scope="session")
def klein_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainServers]:
    """The same for the second family; a test may end the server."""
    with ExitStack() as stack:
        yield TrainServers(tmp_path_factory, stack, base="tiny-flux2")


@pytest.fixture(scope="session")
def predict_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Cog server that generates images with two bases: its own, of the first family, and klein."""
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:  # only until it has started
            patch.setenv("FLUX_GPU", "optional")
            project = project_with_klein(tmp_path_factory.mktemp("project"))
            server = stack.enter_context(running_server("predict", base="tiny", project=project))
        yield server


@pytest.fixture(scope="module")  # Playwright's event loop would be in the way of the modules after it
def browser() -> Iterator["Browser"]:
    """A browser for pages on disk."""
    with running_browser() as browser:
        yield browser


@pytest.fixture(scope="session")
def monster_zip() -> Path:
    """The training images of the example."""
    return ROOT / "script/data/monster.zip"


@pytest.fixture(scope="session")
def short_training(train_server: Server, monster_zip: Path) -> Json:
    """The response to a short training whose images are a data URI."""
    response = post_training(train_server, input_images=data_uri(monster_zip.read_bytes()), **SHORT)
    assert response.body.get("status") == "succeeded", response
    return response.body


@pytest.fixture(scope="session")
def trained_tar(short_training: Json) -> bytes:
    """The tar that the short training returned."""
    return content_of(short_training["output"]["weights"])


@pytest.fixture(scope="session")
def warm_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A `python` whose processes have imported everything, for programs that start others."""
    with running_warm_python(tmp_path_factory.mktemp("python")) as program:
        yield program
