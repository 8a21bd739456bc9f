"""Shared fixtures: the training images, both real Cog servers on the tiny base, and one training."""

from lora.garbage import collect_garbage_again

# isort: split
import gc
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from script.cog_server import ROOT, Server, running_server
from tests.browsers import running_browser
from tests.cog_client import Json, content_of, data_uri, post_training
from tests.servers import TrainServer, TrainServers, isolated_train_server, project_with_klein

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# The groups that take longest start first, so that no worker is left alone with one at the end.
FIRST_GROUPS = ("learning", "servers", "warm", "soak")
# A training that takes seconds; its learning rate is high, so that the LoRA visibly changes the images.
SHORT = {
    "steps": 2,
    "resolution": "64",
    "lora_rank": 4,
    "batch_size": 1,
    "seed": 1,
    "learning_rate": 0.01,
    "sample_prompts": "none",
}


def pytest_configure(config: pytest.Config) -> None:
    """Let the workers start groups in the order of the tests; by default, the largest group is first. Ctrl-C is as in a
    terminal: a background job of a shell ignores it, and so would all processes of tests."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.pluginmanager.hasplugin("xdist"):
        config.option.loadscopereorder = False


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """Let the process that only distributes tests collect garbage too. The others do so after they have found tests."""
    collect_garbage_again()


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Make each module without a group one, so that only one worker makes its fixtures, and put the longest first."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))
    items.sort(key=_rank)


def pytest_collection_finish() -> None:
    """Let garbage collections, of which a training does several, skip the million objects that imports have made."""
    gc.collect()
    collect_garbage_again()


def _rank(item: pytest.Item) -> int:
    """The place of a test's group among the longest ones; all others come after them, in their own order."""
    group = next(item.iter_markers("xdist_group")).args[0]
    return FIRST_GROUPS.index(group) if group in FIRST_GROUPS else len(FIRST_GROUPS)


def pytest_make_parametrize_id(val: object) -> str | None:
    """Return a short id for bytes: they may contain the time, and ids must be the same in every worker."""
    return f"{len(val)} bytes" if isinstance(val, bytes) else None


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
