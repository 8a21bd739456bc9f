"""What tests of the model share."""

import pytest

from tests.tiny import tiny_transformer


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The transformer of tests/tiny.py as a file."""
    folder = tmp_path_factory.mktemp("base")
    tiny_transformer().save_pretrained(folder / "transformer")
    return folder
