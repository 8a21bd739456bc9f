"""The embedded base of each family, for tests of what holds for all of them."""

import pytest

from tests.families import TINY_BASES


@pytest.fixture(scope="module", params=TINY_BASES, ids=lambda tiny: tiny.family.name)
def tiny(request):
    return request.param


@pytest.fixture(scope="module")
def loaded():
    """The pipelines that the tests of a module have loaded, by family."""
    return {}


@pytest.fixture(scope="module")
def pipeline(tiny, loaded):
    """The stock pipeline, which the tests of a module share."""
    if tiny.family.name not in loaded:
        loaded[tiny.family.name] = tiny.pipeline()
    return loaded[tiny.family.name]
