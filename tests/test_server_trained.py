"""A trained version (COG_WEIGHTS) through the real Cog server, after the file that it began with has gone."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save

from script.cog_server import Server, running_server
from tests.cog_client import data_uri, images_of
from tests.test_server_predict import SMALL_REQUEST
from tests.tiny import random_lora, tiny_pipeline

pytestmark = pytest.mark.xdist_group("servers")


@pytest.fixture(scope="module")
def loras() -> list[bytes]:
    """Its own and another."""
    transformer = tiny_pipeline().transformer
    return [save(random_lora(transformer, seed=seed, spread=0.1)) for seed in (1, 2)]


@pytest.fixture(scope="module")
def server(loras: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One whose file is removed once it is ready."""
    file: Path = tmp_path_factory.mktemp("trained") / "lora.safetensors"
    file.write_bytes(loras[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COG_WEIGHTS", str(file))
        with running_server("predict", base="tiny") as it:
            file.unlink()
            yield it


@pytest.fixture(scope="module")
def other(loras: list[bytes]) -> str:
    return data_uri(loras[1])


@pytest.fixture(scope="module")
def own_image(predict_server: Server, loras: list[bytes]) -> list[int]:
    """What any server draws with its LoRA."""
    return _drawn(predict_server, lora_weights=data_uri(loras[0]))


def test_its_own_lora_is_worn_where_none_is_named_in_its_place(server: Server, own_image: list[int]) -> None:
    assert _drawn(server) == own_image
    assert _drawn(server, lora_weights=" ", replicate_weights=" ") == own_image


def test_another_is_worn_in_its_place(server: Server, predict_server: Server, other: str) -> None:
    expected = _drawn(predict_server, lora_weights=other)
    assert _drawn(server, lora_weights=other) == expected
    assert _drawn(server, replicate_weights=other) == expected


def test_more_are_worn_beside_it_and_lora_scale_is_its_own(
    server: Server, predict_server: Server, loras: list[bytes], other: str
) -> None:
    expected = _drawn(predict_server, lora_weights=data_uri(loras[0]), lora_scale=0.5, extra_lora=other)
    assert _drawn(server, lora_scale=0.5, extra_lora=other) == expected
    assert _drawn(server, lora_scale=0.5, loras=[f"{other}:1"]) == expected
    assert _drawn(server, lora_scale=0) == _drawn(predict_server)


def _drawn(server: Server, **inputs: object) -> list[int]:
    """Its pixels: what a file says of itself is no matter here."""
    (image,) = images_of(server, **{**SMALL_REQUEST, **inputs})
    return np.asarray(Image.open(io.BytesIO(image))).ravel().tolist()
