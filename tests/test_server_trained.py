"""A trained version (COG_WEIGHTS) of klein on the real Cog server, after its LoRA file has been deleted. The server
whose images it is compared with has klein beside its own base, and no trained version."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save

from script.cog_server import Server, running_server
from tests.cog_client import data_uri, images_of
from tests.families import KLEIN
from tests.test_server_predict import SMALL_REQUEST
from tests.tiny import random_lora

pytestmark = pytest.mark.xdist_group("servers")


@pytest.fixture(scope="module")
def loras() -> list[bytes]:
    """The LoRA of the trained version, and another one."""
    transformer = KLEIN.family.components.transformer.from_pretrained(KLEIN.folder / "transformer")
    return [save(random_lora(transformer, seed=seed, spread=0.1)) for seed in (1, 2)]


@pytest.fixture(scope="module")
def server(loras: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a trained version, whose file is deleted once the server is ready."""
    file: Path = tmp_path_factory.mktemp("trained") / "lora.safetensors"
    file.write_bytes(loras[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COG_WEIGHTS", str(file))
        patch.delenv("FLUX_LORA_FILES")  # only requests may not name any file: this one comes from the deployment
        with running_server("predict", base="tiny-flux2") as it:
            file.unlink()
            yield it


@pytest.fixture(scope="module")
def other(loras: list[bytes]) -> str:
    return data_uri(loras[1])


@pytest.fixture(scope="module")
def own_pixels(predict_server: Server, loras: list[bytes]) -> list[int]:
    """The pixels that a server without a trained version generates with its LoRA."""
    return _pixels(predict_server, model="klein", lora_weights=data_uri(loras[0]))


def test_its_own_lora_is_applied_if_no_other_is_given(server: Server, own_pixels: list[int]) -> None:
    assert _pixels(server) == own_pixels
    assert _pixels(server, lora_weights=" ", replicate_weights=" ") == own_pixels


def test_a_given_lora_replaces_its_own(server: Server, predict_server: Server, other: str) -> None:
    expected = _pixels(predict_server, model="klein", lora_weights=other)
    assert _pixels(server, lora_weights=other) == expected
    assert _pixels(server, replicate_weights=other) == expected


def test_extra_loras_are_applied_besides_its_own_which_lora_scale_scales(
    server: Server, predict_server: Server, loras: list[bytes], other: str
) -> None:
    expected = _pixels(predict_server, model="klein", lora_weights=data_uri(loras[0]), lora_scale=0.5, extra_lora=other)
    assert _pixels(server, lora_scale=0.5, extra_lora=other) == expected
    assert _pixels(server, lora_scale=0.5, loras=[f"{other}:1"]) == expected
    assert _pixels(server, lora_scale=0) == _pixels(predict_server, model="klein")


def _pixels(server: Server, **inputs: object) -> list[int]:
    """The pixels of the generated image, without the metadata of the file."""
    (image,) = images_of(server, **{**SMALL_REQUEST, **inputs})
    return np.asarray(Image.open(io.BytesIO(image))).ravel().tolist()
