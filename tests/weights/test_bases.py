"""Which base is meant and where it is; what is not there is said with what to do, and nothing else is taken."""

import contextlib
import re
import shlex
import sys

import pytest
from huggingface_hub.cli import download, hf

from tests.tiny import TINY_FLUX, assert_one_sentence, linked_base, replace, write
from weights import bases
from weights.bases import (
    REPOSITORIES,
    WEIGHTS,
    Base,
    check_base,
    find_base,
    find_trainable_base,
    requested_base,
    with_remedy,
)


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
    assert_one_sentence(error.value, f"the base tiny: {file} is ", found)
    assert str(error.value).endswith(remedy)


def test_a_base_that_cannot_be_loaded_is_told_with_its_remedy(tmp_path):
    with pytest.raises(ValueError) as error, with_remedy(Base("mine", tmp_path, "make it again")):
        raise ValueError(f"{tmp_path} has no tensor")
    assert str(error.value) == f"the base mine: {tmp_path} has no tensor; remove it, then make it again"


def test_a_base_that_is_not_whole_is_not_trained(monkeypatch, tmp_path):
    folder = linked_base(tmp_path / "base")
    replace(folder / "transformer" / "config.json", b"")
    monkeypatch.setenv("FLUX_BASE", str(folder))
    with pytest.raises(ValueError) as error:
        find_trainable_base()
    assert_one_sentence(error.value, f"the base folder base: {folder / 'transformer' / 'config.json'} is damaged")


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


def a_base(folder, name, *, guidance=True):
    """As much of one as its choice looks at."""
    write(folder / "model_index.json", b"{}")
    (folder / "transformer").mkdir()
    write(folder / "transformer" / "config.json", b'{"guidance_embeds": %s}' % str(guidance).lower().encode())
    return Base(name, folder, "make it again")


@pytest.fixture
def weights(monkeypatch, tmp_path):
    """A folder in the place of weights/, with dev and schnell."""
    monkeypatch.setattr(bases, "WEIGHTS", tmp_path)
    for name in ("dev", "schnell"):
        (tmp_path / name).mkdir()
    return {name: a_base(tmp_path / name, name, guidance=name == "dev") for name in ("dev", "schnell")}


@pytest.mark.parametrize("model", [None, "", "  ", "dev"])
def test_a_request_that_names_no_model_means_the_served_one(weights, model):
    assert requested_base(model, served=weights["dev"]) == weights["dev"]


def test_a_request_can_name_any_base_that_is_there(weights):
    assert requested_base("schnell", served=weights["dev"]).path == weights["schnell"].path


def test_a_request_for_a_base_that_is_not_there_is_told_how_to_get_it(weights):
    with pytest.raises(FileNotFoundError) as error:
        requested_base("krea", served=weights["dev"])
    assert_one_sentence(error.value, "model is krea: no weights/krea here", "draws with dev", "`hf download")


def test_a_model_that_does_not_exist_is_refused_with_those_that_do(weights):
    with pytest.raises(ValueError) as error:
        requested_base("pro", served=weights["dev"])
    assert_one_sentence(error.value, "model is 'pro': expected dev, krea, schnell", "none for dev")


def test_a_base_of_ones_own_stands_in_for_those_of_its_kind_that_are_not_there(weights, tmp_path):
    (tmp_path / "mine").mkdir()
    mine = a_base(tmp_path / "mine", "folder mine")
    assert requested_base("krea", served=mine) == mine
    assert requested_base("dev", served=mine).path == weights["dev"].path
    (tmp_path / "fast").mkdir()
    fast = a_base(tmp_path / "fast", "folder fast", guidance=False)
    with pytest.raises(FileNotFoundError, match="draws with folder fast"):
        requested_base("krea", served=fast)


def test_the_embedded_base_is_no_schnell(monkeypatch, tmp_path):
    monkeypatch.setattr(bases, "WEIGHTS", tmp_path)
    tiny = Base("tiny", TINY_FLUX, "run script/build-tiny-flux")
    assert requested_base("dev", served=tiny) == tiny
    with pytest.raises(FileNotFoundError, match="model is schnell"):
        requested_base("schnell", served=tiny)
