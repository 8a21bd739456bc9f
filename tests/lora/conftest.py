"""Fixtures that tests of lora share."""

import pytest

from tests.tiny import save_transformer, tiny_transformer


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with the transformer of tests/tiny.py."""
    folder = tmp_path_factory.mktemp("base")
    save_transformer(tiny_transformer(), folder)
    return folder
