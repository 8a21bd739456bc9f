"""The base that a setting or a request names is found. The error for a missing base says how to get it."""

import pytest

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
    with pytest.raises(ValueError, match="can generate, but not be trained"):
        find_trainable_base()


def test_a_base_with_guidance_is_trained(monkeypatch):
    monkeypatch.setenv("FLUX_BASE", "tiny")
    assert find_trainable_base() == find_base()


def test_spaces_around_a_name_are_ignored(monkeypatch):
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
@pytest.mark.parametrize("component", ["transformer", "vae"])
def test_the_error_for_a_damaged_base_contains_its_remedy(tmp_path, component, damage, kind, found, remedy):
    base = Base("tiny", linked_base(tmp_path / "base"), "run script/build-tiny-flux")
    check_base(base)
    file = base.path / component / "diffusion_pytorch_model.safetensors"
    damage(file)
    with pytest.raises(kind) as error:
        check_base(base)
    assert_one_sentence(error.value, f"the base tiny: {file} is ", found)
    assert str(error.value).endswith(remedy)


def test_the_error_for_a_base_that_cannot_be_loaded_contains_its_remedy(tmp_path):
    with pytest.raises(ValueError) as error, with_remedy(Base("mine", tmp_path, "make it again")):
        raise ValueError(f"{tmp_path} has no tensor")
    assert str(error.value) == f"the base mine: {tmp_path} has no tensor; remove it, then make it again"


def test_a_damaged_base_is_not_trained(monkeypatch, tmp_path):
    folder = linked_base(tmp_path / "base")
    replace(folder / "transformer" / "config.json", b"")
    monkeypatch.setenv("FLUX_BASE", str(folder))
    with pytest.raises(ValueError) as error:
        find_trainable_base()
    assert_one_sentence(error.value, f"the base folder base: {folder / 'transformer' / 'config.json'} is damaged")


@pytest.mark.parametrize("name", ["devv", "DEV", "flux", ".."])
def test_the_error_for_an_unknown_name_lists_the_known_ones(monkeypatch, name):
    monkeypatch.setenv("FLUX_BASE", name)
    message = refusal(ValueError)
    assert repr(name) in message
    assert "dev, krea, schnell, tiny" in message


@pytest.mark.parametrize("name", REPOSITORIES)
def test_the_error_for_a_missing_base_says_how_to_get_it(monkeypatch, name):
    if (WEIGHTS / name / "model_index.json").is_file():
        pytest.skip(f"weights/{name} is on this machine")
    monkeypatch.setenv("FLUX_BASE", name)
    message = refusal(FileNotFoundError)
    assert "model_index.json" in message
    assert str(WEIGHTS / name) in message
    assert f"accept the licence at huggingface.co/{REPOSITORIES[name]}, then run `script/download {name}`" in message


@pytest.mark.parametrize("setting", [None, "", "  "])
def test_the_default_base_is_dev(monkeypatch, setting):
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


def test_what_the_machine_cannot_run_is_refused_before_its_files_are_looked_for(monkeypatch, tmp_path):
    """Nobody is told to download it."""

    def refuse(name, is_published):
        raise RuntimeError(f"{name}, published: {is_published}")

    monkeypatch.setattr(bases, "WEIGHTS", tmp_path)
    for name, is_published in (("dev", True), ("schnell", True), ("tiny", False), (str(tmp_path), False)):
        monkeypatch.setenv("FLUX_BASE", name)
        for find in (find_base, find_trainable_base):
            with pytest.raises(RuntimeError, match=f"^{name}, published: {is_published}$"):
                find(refuse)
    tiny = Base("tiny", TINY_FLUX, "run script/build-tiny-flux")
    with pytest.raises(RuntimeError, match=r"^schnell, published: True$"):
        requested_base("schnell", served=tiny, check=refuse)
    assert requested_base("dev", served=tiny, check=refuse) == tiny, "it replaces the base that is missing"


def a_base(folder, name, *, guidance=True):
    """The files of a base that `requested_base` reads."""
    write(folder / "model_index.json", b"{}")
    (folder / "transformer").mkdir()
    write(folder / "transformer" / "config.json", b'{"guidance_embeds": %s}' % str(guidance).lower().encode())
    return Base(name, folder, "make it again")


@pytest.fixture
def weights(monkeypatch, tmp_path):
    """A folder in place of weights/, with dev and schnell."""
    monkeypatch.setattr(bases, "WEIGHTS", tmp_path)
    for name in ("dev", "schnell"):
        (tmp_path / name).mkdir()
    return {name: a_base(tmp_path / name, name, guidance=name == "dev") for name in ("dev", "schnell")}


@pytest.mark.parametrize("model", [None, "", "  ", "dev"])
def test_a_request_without_a_model_gets_the_served_base(weights, model):
    assert requested_base(model, served=weights["dev"]) == weights["dev"]


def test_a_request_can_name_any_base_on_this_machine(weights):
    assert requested_base("schnell", served=weights["dev"]).path == weights["schnell"].path


def test_the_error_for_a_request_of_a_missing_base_says_how_to_get_it(weights):
    with pytest.raises(FileNotFoundError) as error:
        requested_base("krea", served=weights["dev"])
    assert_one_sentence(
        error.value, "model is krea: weights/krea is not installed", "server has dev", "`script/download krea`"
    )


def test_the_error_for_an_unknown_model_lists_the_known_ones(weights):
    with pytest.raises(ValueError) as error:
        requested_base("pro", served=weights["dev"])
    assert_one_sentence(error.value, "model is 'pro': expected dev, krea, schnell", "none for dev")


def test_an_unpublished_base_replaces_missing_bases_of_its_kind(weights, tmp_path):
    (tmp_path / "mine").mkdir()
    mine = a_base(tmp_path / "mine", "folder mine")
    assert requested_base("krea", served=mine) == mine
    assert requested_base("dev", served=mine).path == weights["dev"].path
    (tmp_path / "fast").mkdir()
    fast = a_base(tmp_path / "fast", "folder fast", guidance=False)
    with pytest.raises(FileNotFoundError, match="this server has folder fast"):
        requested_base("krea", served=fast)


def test_the_embedded_base_does_not_replace_schnell(monkeypatch, tmp_path):
    monkeypatch.setattr(bases, "WEIGHTS", tmp_path)
    tiny = Base("tiny", TINY_FLUX, "run script/build-tiny-flux")
    assert requested_base("dev", served=tiny) == tiny
    with pytest.raises(FileNotFoundError, match="model is schnell"):
        requested_base("schnell", served=tiny)
