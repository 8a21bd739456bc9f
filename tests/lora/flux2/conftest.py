"""The embedded klein, loaded once for all tests of this folder; none of them changes it."""

import pytest
from diffusers import Flux2KleinPipeline

from tests.families import KLEIN


@pytest.fixture(scope="package")
def klein() -> Flux2KleinPipeline:
    """The pipeline with all its components."""
    return KLEIN.pipeline()
