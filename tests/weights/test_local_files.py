"""Requests may name files in a few folders, and learn nothing about any other file."""

import os
from pathlib import Path

import pytest

from tests.tiny import assert_one_sentence
from weights.local_files import EVERYWHERE, PROJECT, ReadableFolders
from weights.local_folder import read_config_beside
from weights.references import read_lora


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder that the deployment allows; beside it is a folder that it does not."""
    monkeypatch.setenv("FLUX_LORA_FILES", str(tmp_path / "allowed"))
    for name in ("allowed/inner", "private", "allowed-not"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "photos.zip").write_text("")
    return tmp_path / "allowed"


def is_readable(path):
    return ReadableFolders.of_deployment().contain(Path(path))


def test_files_of_the_project_and_of_the_allowed_folders_are_readable(folder, monkeypatch):
    assert is_readable(PROJECT / "photos.zip")
    assert is_readable(folder / "inner/photos.zip")
    assert is_readable(folder / "not there.zip")
    assert is_readable(f"/proc/self/root{folder}/photos.zip")
    monkeypatch.chdir(folder)
    assert is_readable("inner/photos.zip")
    assert is_readable("inner/../photos.zip")


@pytest.mark.parametrize(
    "path",
    [
        "{private}/photos.zip",
        "{private}/not there.zip",
        "{private}-not/photos.zip",
        "{allowed}/../private/photos.zip",
        "{allowed}/inner/../../private/photos.zip",
        "{allowed}-not/photos.zip",
        "{allowed}/link",
        "{allowed}/link to a folder/photos.zip",
        "{allowed}/link to nothing",
        "/proc/self/root{private}/photos.zip",
        "/proc/self/environ",
        "/proc/self/fd/0",
        "/dev/stdin",
        "/etc/passwd",
        "/",
        "",
        "~/photos.zip",
        "file:///etc/passwd",
        "a\0b",
        "\ud800",
        "x" * 5000,
    ],
)
def test_no_other_path_is_readable(folder, monkeypatch, path):
    private = folder.parent / "private"
    (folder / "link").symlink_to(private / "photos.zip")
    (folder / "link to a folder").symlink_to(private)
    (folder / "link to nothing").symlink_to(private / "nothing")
    monkeypatch.chdir(private)
    assert not is_readable(path.format(private=private, allowed=folder))


def test_a_loop_of_links_is_no_error(folder):
    (folder / "a").symlink_to(folder / "b")
    (folder / "b").symlink_to(folder / "a")
    assert is_readable(folder / "a")
    (folder.parent / "private/loop").symlink_to("loop")
    assert not is_readable(folder.parent / "private/loop")


def test_an_allowed_folder_may_be_a_link(folder, monkeypatch):
    (folder.parent / "loras").symlink_to(folder.parent / "private")
    monkeypatch.setenv("FLUX_LORA_FILES", os.pathsep.join(["", str(folder), f"{folder.parent}/loras"]))
    assert is_readable(folder.parent / "loras/photos.zip")
    assert is_readable(folder / "photos.zip")


def test_a_malformed_setting_is_refused(monkeypatch):
    monkeypatch.setenv("FLUX_LORA_FILES", "loras")
    with pytest.raises(ValueError) as error:
        ReadableFolders.of_deployment()
    assert_one_sentence(error.value, "FLUX_LORA_FILES is 'loras': expected absolute paths")


@pytest.mark.parametrize("name", ["lora.safetensors", "lora.tar"])
def test_the_answer_to_a_lora_elsewhere_does_not_tell_whether_it_exists(folder, name):
    private = folder.parent / "private"
    (private / name).write_text("")
    answers = [refusal(private / name), refusal(private / name.replace("lora", "arol")).replace("arol", "lora")]
    assert answers[0] == answers[1]
    assert "is outside of the folders that requests may read: expected an https:// URL" in answers[0]
    assert "FLUX_LORA_FILES" in answers[0]
    assert "found an empty file" in refusal(private / name, readable=EVERYWHERE)


def test_a_link_in_the_folder_of_a_lora_leads_to_no_file_elsewhere(folder):
    private = folder.parent / "private"
    (private / "lora.safetensors").write_text("")
    (private / "adapter_config.json").write_text('{"lora_alpha": "secret"}')
    for name in ("lora.safetensors", "adapter_config.json"):
        (folder / "inner" / name).symlink_to(private / name)
    assert "is outside of the folders that requests may read" in refusal(folder / "inner")
    assert read_config_beside(folder / "inner/lora.safetensors", ReadableFolders.of_deployment()) == ""
    assert "secret" in read_config_beside(folder / "inner/lora.safetensors", EVERYWHERE)


def refusal(path, **options):
    with pytest.raises(ValueError) as error:
        read_lora(str(path), named="lora_weights", **options)
    assert_one_sentence(error.value, "lora_weights")
    return str(error.value)
