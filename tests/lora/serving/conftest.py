"""The embedded base of each family, for tests of what holds for all of them."""

import pytest

from tests.families import TINY_BASES


@pytest.fixture(scope="module", params=TINY_BASES, ids=lambda tiny: tiny.family.name)
def tiny(request):
    return request.param


@pytest.fixture(scope="module")
def pipeline(tiny):
    """The stock pipeline, which the tests of a module share."""
    return tiny.pipeline()
