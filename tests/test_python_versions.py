"""Which versions of Python the project admits: where there is none of them, uv downloads the newest admitted one."""

import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[1]
ADMITTED = SpecifierSet(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"])


def test_the_python_of_the_image_is_admitted():
    assert str(yaml.safe_load((ROOT / "cog.yaml").read_text())["build"]["python_version"]) in ADMITTED


@pytest.mark.parametrize("version", ["3.10.13", "3.13.0", "3.15.2"])
def test_a_python_that_the_project_was_not_tried_with_is_not_admitted(version):
    """PyTorch 2.11 has no wheels for 3.15."""
    assert version not in ADMITTED
