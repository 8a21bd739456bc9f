"""Which base is meant and where it is; what is not there is said with what to do, and nothing else is taken."""

import contextlib
import re
import shlex
import sys

import pytest
from huggingface_hub.cli import download, hf

from tests.tiny import TINY_FLUX, assert_one_sentence, linked_base, replace, write
from weights.bases import REPOSITORIES, WEIGHTS, Base, check_base, find_base, find_trainable_base


def refusal(kind):
    with pytest.raises(kind) as error:
        find_base()
    assert_one_sentence(error.value, "FLUX_BASE")
    return str(error.value)


def test_the_tiny_base_is_found(monkeypatch):
    monkeypatch.setenv("FLUX_BASE", "tiny")
    assert find_base() == Base("tiny", TINY_FLUX, "run script/build-tiny-flux")


def test_a_base_without_guidance_is_not_trained(monkeypatch, tmp_path):
    folder = linked_base(tmp_path / "base")
    replace(folder / "transformer" / "config.json", b'{"guidance_embeds": false}')
    monkeypatch.setenv("FLUX_BASE", str(folder))
    assert find_base().path == folder
    with pytest.raises(ValueError, match="can be drawn with, not trained"):
        find_trainable_base()


def test_a_base_with_guidance_is_trained(monkeypatch):
    monkeypatch.setenv("FLUX_BASE", "tiny")
    assert find_trainable_base() == find_base()


def test_the_command_that_fetches_a_base_is_understood_by_the_tool_it_is_for(monkeypatch):
    """The real command line of Hugging Face, its two ways to download replaced by records of what was asked."""
    monkeypatch.setenv("FLUX_BASE", "dev")
    if (WEIGHTS / "dev").exists():
        pytest.skip("weights/dev is there")
    command = re.search(r"`(hf download [^`]+)`", refusal(FileNotFoundError))
    assert command
    asked = []
    for function in ("snapshot_download", "hf_hub_download"):
        monkeypatch.setattr(
            download, function, lambda *_, _name=function, **kwargs: asked.append((_name, kwargs)) or ""
        )
    monkeypatch.setattr(sys, "argv", shlex.split(command[1]))
    with contextlib.suppress(SystemExit):
        hf.main()
    [(function, settings)] = asked
    assert function == "snapshot_download"
    assert settings["repo_id"] == "black-forest-labs/FLUX.1-dev"
    assert settings["ignore_patterns"] == ["flux1-*", "ae.safetensors"]


def test_spaces_around_a_name_do_not_count(monkeypatch):
    monkeypatch.setenv("FLUX_BASE", " tiny ")
    assert find_base().name == "tiny"


def test_a_folder_in_diffusers_layout_is_found(monkeypatch, tmp_path):
    write(tmp_path / "model_index.json", b"{}")
    monkeypatch.setenv("FLUX_BASE", str(tmp_path))
    base = find_base()
    assert (base.name, base.path) == (f"folder {tmp_path.name}", tmp_path)


DAMAGES = [
    (lambda file: file.unlink(), FileNotFoundError, "is missing", "; run script/build-tiny-flux"),
    (
        lambda file: replace(file, file.read_bytes()[:-9]),
        ValueError,
        "9 bytes are missing",
        "; remove it, then run script/build-tiny-flux",
    ),
]


@pytest.mark.parametrize(("damage", "kind", "found", "remedy"), DAMAGES)
@pytest.mark.parametrize("part", ["transformer", "vae"])
def test_a_base_that_is_not_whole_is_told_with_its_remedy(tmp_path, part, damage, kind, found, remedy):
    base = Base("tiny", linked_base(tmp_path / "base"), "run script/build-tiny-flux")
    check_base(base)
    file = base.path / part / "diffusion_pytorch_model.safetensors"
    damage(file)
    with pytest.raises(kind) as error:
        check_base(base)
    assert_one_sentence(error.value, f"FLUX_BASE is tiny: {file} is ", found)
    assert str(error.value).endswith(remedy)


def test_a_base_that_is_not_whole_is_not_trained(monkeypatch, tmp_path):
    folder = linked_base(tmp_path / "base")
    replace(folder / "transformer" / "config.json", b"")
    monkeypatch.setenv("FLUX_BASE", str(folder))
    with pytest.raises(ValueError) as error:
        find_trainable_base()
    assert_one_sentence(error.value, f"FLUX_BASE is folder base: {folder / 'transformer' / 'config.json'} is damaged")


@pytest.mark.parametrize("name", ["devv", "DEV", "flux", ".."])
def test_a_name_that_does_not_exist_is_refused_with_those_that_do(monkeypatch, name):
    monkeypatch.setenv("FLUX_BASE", name)
    message = refusal(ValueError)
    assert repr(name) in message
    assert "dev, krea, schnell, tiny" in message


@pytest.mark.parametrize("name", REPOSITORIES)
def test_a_base_that_is_not_there_is_told_with_its_remedy(monkeypatch, name):
    if (WEIGHTS / name / "model_index.json").is_file():
        pytest.skip(f"weights/{name} is on this machine")
    monkeypatch.setenv("FLUX_BASE", name)
    message = refusal(FileNotFoundError)
    assert "model_index.json" in message
    assert str(WEIGHTS / name) in message
    assert f"hf download {REPOSITORIES[name]} --local-dir weights/{name}" in message


@pytest.mark.parametrize("setting", [None, "", "  "])
def test_without_a_setting_dev_is_meant(monkeypatch, setting):
    if (WEIGHTS / "dev" / "model_index.json").is_file():
        pytest.skip("weights/dev is on this machine")
    monkeypatch.delenv("FLUX_BASE", raising=False)
    if setting is not None:
        monkeypatch.setenv("FLUX_BASE", setting)
    assert "FLUX_BASE is dev" in refusal(FileNotFoundError)


def test_a_folder_without_an_index_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("FLUX_BASE", str(tmp_path))
    message = refusal(FileNotFoundError)
    assert str(tmp_path) in message
    assert "model_index.json" in message
