"""Fixtures that let tests of the engine run over the families of base models."""

import pytest

from tests.lora.engine.comparing import FLUX1, MODELS, small_inputs, world_inputs
from tests.tiny import TINY_FLUX, save_transformer


@pytest.fixture(scope="module", params=MODELS, ids=lambda model: model.family)
def model(request):
    """The small model of each family."""
    return request.param


@pytest.fixture(scope="module")
def base(model, tmp_path_factory):
    """A folder with the transformer of that model."""
    folder = tmp_path_factory.mktemp("base")
    save_transformer(model.transformer(), folder)
    return folder


@pytest.fixture(scope="module")
def folder_and_inputs(model, base):
    """A base and inputs for it: weights/tiny-flux, which is trained, and the small model of FLUX.2."""
    return (TINY_FLUX, world_inputs()) if model is FLUX1 else (base, small_inputs(model))
