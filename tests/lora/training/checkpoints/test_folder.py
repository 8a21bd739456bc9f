"""Checkpoints are kept where they outlive a container, if there is such a place."""

import pytest

from lora.training.checkpoints import folder
from lora.training.checkpoints.folder import checkpoints_folder, is_lasting

# Of a container of Docker that `cog train` starts; the second line is the mounted project.
MOUNTS = """\
100 99 0:50 / / rw,relatime - overlay overlay rw,lowerdir=/var/lib/docker/overlay2/l/A
120 100 254:0 /home/me/my\\040project {project} rw,relatime - ext4 /dev/vda rw
121 100 0:53 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project that is mounted into a container."""
    project = tmp_path / "my project"
    project.mkdir()
    (tmp_path / ".dockerenv").touch()
    (tmp_path / "mounts").write_text(MOUNTS.format(project=str(project).replace(" ", "\\040")))
    monkeypatch.setattr(folder, "PROJECT", project)
    monkeypatch.setattr(folder, "MOUNTS", tmp_path / "mounts")
    monkeypatch.setattr(folder, "CONTAINER_MARKERS", (tmp_path / ".dockerenv",))
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("RUNPOD_POD_ID", raising=False)
    monkeypatch.delenv("FLUX_LORA_CHECKPOINTS")
    return project


def test_in_a_container_they_are_kept_in_the_mounted_project(project):
    assert checkpoints_folder() == project / "checkpoints"
    assert is_lasting()


def test_outside_of_a_container_they_are_kept_in_the_home(project):
    (project.parent / ".dockerenv").unlink()
    assert str(checkpoints_folder()) == "/home/me/.cache/flux-lora/checkpoints"


@pytest.mark.parametrize("content", [MOUNTS.format(project="/src/weights"), MOUNTS.format(project="/other"), None])
def test_in_a_container_without_the_project_they_are_kept_in_the_home_and_said_to_be_lost(project, content):
    mounts = project.parent / "mounts"
    mounts.unlink() if content is None else mounts.write_text(content)
    assert str(checkpoints_folder()) == "/home/me/.cache/flux-lora/checkpoints"
    assert not is_lasting()


@pytest.mark.parametrize("marked", [True, False])
def test_in_a_pod_they_are_kept_on_the_volume_that_the_project_lies_on(project, monkeypatch, marked):
    """A pod is a container; its variables are not in every shell, and other runtimes than Docker have no marker."""
    if marked:
        (project.parent / ".dockerenv").unlink()
        monkeypatch.setenv("RUNPOD_POD_ID", "pod1")
    (project.parent / "mounts").write_text(MOUNTS.format(project=str(project.parent).replace(" ", "\\040")))
    assert checkpoints_folder() == project / "checkpoints"
    assert is_lasting()


@pytest.mark.parametrize("pod", ["pod1", ""])
def test_in_a_pod_they_are_kept_on_its_volume_if_the_project_lies_elsewhere(project, monkeypatch, tmp_path, pod):
    volume = tmp_path / "workspace"
    volume.mkdir()
    monkeypatch.setattr(folder, "RUNPOD_VOLUMES", (tmp_path / "other", volume))
    monkeypatch.setenv("RUNPOD_POD_ID", pod)
    (project.parent / "mounts").write_text(MOUNTS.format(project=str(volume)))
    assert is_lasting() == bool(pod)
    expected = volume / "flux-lora-checkpoints" if pod else "/home/me/.cache/flux-lora/checkpoints"
    assert str(checkpoints_folder()) == str(expected)


@pytest.mark.parametrize(("given", "found"), [("/volume/x", "/volume/x"), ("~/x", "/home/me/x")])
@pytest.mark.usefixtures("project")
def test_the_setting_comes_first(monkeypatch, given, found):
    monkeypatch.setenv("FLUX_LORA_CHECKPOINTS", given)
    assert str(checkpoints_folder()) == found
    assert is_lasting()


def test_a_blank_setting_is_none(project, monkeypatch):
    monkeypatch.setenv("FLUX_LORA_CHECKPOINTS", " ")
    assert checkpoints_folder() == project / "checkpoints"
