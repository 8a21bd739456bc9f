"""What travels to a GPU machine: the wheels that it lacks, in the locked versions, small enough, and installable."""

import tomllib
import zipfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from script.gpu_wheels import (
    MOST_BYTES,
    NAMES,
    PYTHON,
    ROOT,
    STRIPPED,
    locked_versions,
    size_line,
    strip_libraries,
    wheels_in,
)

RECORD = "a-1.dist-info/RECORD"


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A wheel with three libraries."""
    files = {"a/__init__.py": "import x", "a/lib_one.so": "1" * 1000, "a/lib_two.so": "2" * 1000, "a/lib_cpu.so": "3"}
    with zipfile.ZipFile(tmp_path / "a-1-py3-none-any.whl", "w") as whole:
        for name, content in files.items():
            whole.writestr(name, content)
        whole.writestr(
            RECORD, "".join(f"{name},sha256=x,{len(text)}\n" for name, text in files.items()) + f"{RECORD},,\n"
        )
    return tmp_path / "a-1-py3-none-any.whl"


def test_a_stripped_wheel_has_only_the_wanted_libraries_and_its_record_names_all_that_it_has(wheel, tmp_path):
    strip_libraries(wheel, tmp_path / "stripped.whl", kept=["lib_two.so", "lib_cpu.so"])
    with zipfile.ZipFile(tmp_path / "stripped.whl") as stripped:
        assert stripped.namelist() == ["a/__init__.py", "a/lib_two.so", "a/lib_cpu.so", RECORD]
        recorded = [line.split(",")[0] for line in stripped.read(RECORD).decode().splitlines()]
        assert recorded == stripped.namelist()
        assert stripped.read("a/lib_two.so") == b"2" * 1000


def test_a_wheel_without_the_wanted_library_is_refused(wheel, tmp_path):
    with pytest.raises(ValueError, match=r"has no lib_three\.so: expected the library of the GPU machine's CUDA"):
        strip_libraries(wheel, tmp_path / "stripped.whl", kept=["lib_three.so"])


def test_every_wheel_is_pinned_to_the_locked_version():
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    pins = locked_versions(lock, [*NAMES, STRIPPED])
    requirements = (ROOT / "requirements.txt").read_text().splitlines()
    assert set(pins) <= set(requirements)
    with pytest.raises(ValueError, match=r"uv\.lock has 0 versions of nothing-like-it: expected one"):
        locked_versions(lock, ["nothing-like-it"])


THERE = ("torch", "torchvision", "transformers", "accelerate")  # and what these require
NOT_IMPORTED = {"cog"}  # by what is measured


def required_by(name: str) -> set[str]:
    """The packages that an installed one requires on the GPU machine, without its extras."""
    requirements = map(Requirement, metadata.requires(name) or [])
    environment = {"extra": "", "python_version": PYTHON}
    return {
        canonicalize_name(each.name) for each in requirements if not each.marker or each.marker.evaluate(environment)
    }


def with_what_they_require(names: Iterable[str]) -> set[str]:
    found, waiting = set(), [*names]
    while waiting:
        name = waiting.pop()
        if name not in found and is_installed(name):
            waiting += required_by(name)
        found.add(name)
    return found


def is_installed(name: str) -> bool:
    """A package for another system or another Python is not."""
    return any(metadata.distributions(name=name))


def test_whatever_the_project_or_a_wheel_requires_is_there_or_travels():
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    ours = {canonicalize_name(Requirement(each).name) for each in dependencies} - NOT_IMPORTED
    travelling = {*NAMES, STRIPPED}
    required = ours.union(*(required_by(name) for name in travelling if is_installed(name)))
    assert required - travelling - with_what_they_require(THERE) == set()


def test_more_than_can_travel_is_refused():
    assert size_line(2**20, 2**21) == "1.0 MiB of wheels and 2.0 MiB of the repository, 3.0 of 64 MiB"
    with pytest.raises(ValueError, match="too much to travel: expected at most 64 MiB together"):
        size_line(MOST_BYTES, 1)


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "a.whl").touch()
    assert wheels_in(tmp_path) == [tmp_path / "a.whl"]
    assert wheels_in(tmp_path / "new") == []
    (tmp_path / "photos").mkdir()
    with pytest.raises(ValueError, match="which has photos: expected a folder with nothing but wheels"):
        wheels_in(tmp_path)
