"""The base that a setting or a request names is found. The error for a missing base says how to get it."""

import json

import pytest

from tests.base_services import REPOSITORY, Files, Hub, files_of, small_base
from tests.services import service
from tests.tiny import TINY_FLUX, assert_one_sentence, linked_base, replace, write
from weights import bases
from weights.base_kind import FLUX1, INDEX, KLEIN
from weights.bases import (
    WEIGHTS,
    Base,
    check_base,
    find_base,
    find_trainable_base,
    requested_base,
    with_remedy,
)
from weights.catalogue import EMBEDDED, NAMES, PUBLISHED, published

DEV = published("dev").repository


def refusal(kind):
    with pytest.raises(kind) as error:
        find_base()
    assert_one_sentence(error.value, "FLUX_BASE")
    return str(error.value)


def test_the_tiny_base_is_found(monkeypatch):
    monkeypatch.setenv("FLUX_BASE", "tiny")
    assert find_base() == Base("tiny", TINY_FLUX, "run script/build-tiny-flux")


@pytest.mark.parametrize("base", EMBEDDED, ids=lambda base: base.name)
def test_an_embedded_base_is_found_by_its_name_and_trained(monkeypatch, tmp_path, base):
    monkeypatch.setattr(bases, "WEIGHTS", tmp_path)
    monkeypatch.setenv("FLUX_BASE", base.name)
    assert refusal(FileNotFoundError).endswith(f"; {base.remedy}")
    folder = small_base(tmp_path / base.folder, base.kind)
    assert find_trainable_base() == Base(base.name, folder, base.remedy)


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
    assert f"expected {', '.join(NAMES)}, or the path of a folder" in message


@pytest.mark.parametrize("base", PUBLISHED, ids=lambda base: base.name)
def test_the_error_for_a_missing_base_says_how_to_get_it(monkeypatch, tmp_path, base):
    """Nobody needs an account for a base that is not gated."""
    monkeypatch.setattr(bases, "WEIGHTS", tmp_path)
    monkeypatch.setenv("FLUX_BASE", base.name)
    message = refusal(FileNotFoundError)
    assert f"no model_index.json in {tmp_path / base.name}" in message
    assert message.endswith(f"run `script/download {base.name}`")
    licence = f"; accept the licence at huggingface.co/{base.repository}, then run `script"
    assert (licence in message) is base.is_gated


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


def a_base(folder, name, *, kind=FLUX1, guidance=True):
    """The files of a base that `requested_base` reads."""
    index = {"_class_name": kind.pipelines[0], "is_distilled": not guidance}
    (folder / "transformer").mkdir(parents=True)
    write(folder / INDEX, json.dumps(index).encode())
    write(folder / "transformer" / "config.json", json.dumps({"guidance_embeds": guidance}).encode())
    return Base(name, folder, "make it again")


@pytest.fixture
def weights(monkeypatch, tmp_path):
    """A folder in place of weights/, with dev and schnell."""
    monkeypatch.setattr(bases, "WEIGHTS", tmp_path)
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
    names = ", ".join(base.name for base in PUBLISHED)
    assert_one_sentence(error.value, f"model is 'pro': expected {names}, or none for dev")
    with pytest.raises(ValueError) as error:
        requested_base("data:image/png;base64," * 1000, served=weights["dev"])
    assert len(str(error.value)) < 200, "a value of megabytes is shortened"


def test_an_unpublished_base_replaces_missing_bases_of_its_kind(weights, tmp_path):
    mine = a_base(tmp_path / "mine", "folder mine")
    assert requested_base("krea", served=mine) == mine
    assert requested_base("dev", served=mine).path == weights["dev"].path
    fast = a_base(tmp_path / "fast", "folder fast", guidance=False)
    with pytest.raises(FileNotFoundError, match="this server has folder fast"):
        requested_base("krea", served=fast)


def test_the_embedded_base_does_not_replace_schnell(monkeypatch, tmp_path):
    monkeypatch.setattr(bases, "WEIGHTS", tmp_path)
    tiny = Base("tiny", TINY_FLUX, "run script/build-tiny-flux")
    assert requested_base("dev", served=tiny) == tiny
    with pytest.raises(FileNotFoundError, match="model is schnell"):
        requested_base("schnell", served=tiny)


@pytest.mark.parametrize(
    ("kind", "guidance", "replaced"),
    [
        (FLUX1, True, ["dev", "krea"]),
        (FLUX1, False, ["schnell"]),
        (KLEIN, True, ["klein", "klein-9b"]),
        (KLEIN, False, ["klein-distilled"]),
    ],
)
def test_an_unpublished_base_replaces_no_base_of_another_family(monkeypatch, tmp_path, kind, guidance, replaced):
    monkeypatch.setattr(bases, "WEIGHTS", tmp_path)
    mine = a_base(tmp_path / "mine", "folder mine", kind=kind, guidance=guidance)
    for base in PUBLISHED:
        if base.name in replaced:
            assert requested_base(base.name, served=mine) == mine
            continue
        with pytest.raises(FileNotFoundError, match=f"model is {base.name}: weights/{base.name} is not installed"):
            requested_base(base.name, served=mine)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub on this machine with a small base in two repositories, and an empty weights/ and cache."""
    monkeypatch.setattr(bases, "WEIGHTS", tmp_path / "weights")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("FLUX_BASE", raising=False)
    files = Files(files_of(small_base(tmp_path / "small")))
    hubs = [Hub(files), Hub(files, repository=DEV)]

    def reply(request, server):
        next((hub for hub in hubs if hub.repository in request.path), hubs[0])(request, server)

    with service(reply) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def test_a_base_that_is_not_here_comes_from_the_url_once(hub, monkeypatch, tmp_path):
    monkeypatch.setenv("FLUX_BASE_URL", f"hf://{REPOSITORY}@v1")
    lines = []
    first = find_trainable_base(log_line=lines.append)
    asked = len(hub.requests)
    assert find_trainable_base() == first
    assert (len(hub.requests), first.name) == (asked, REPOSITORY)
    assert first.path.parent == tmp_path / "cache/flux-lora-bases"
    assert any("licence small-licence" in line for line in lines)


@pytest.mark.usefixtures("hub")
def test_the_url_of_a_published_base_names_it(monkeypatch):
    monkeypatch.setenv("FLUX_BASE_URL", f"hf://{DEV}")
    asked = []
    assert find_base(lambda name, is_published: asked.append((name, is_published))).name == "dev"
    assert asked == [("dev", True)], "before gigabytes are downloaded"


@pytest.mark.usefixtures("hub")
def test_a_setting_names_the_base_that_a_url_holds(monkeypatch):
    monkeypatch.setenv("FLUX_BASE", "krea")
    monkeypatch.setenv("FLUX_BASE_URL", f"hf://{REPOSITORY}")
    assert find_base().name == "krea"
    monkeypatch.setenv("FLUX_BASE_URL", f"hf://{DEV}")
    assert "FLUX_BASE is krea, and FLUX_BASE_URL names black-forest-labs/FLUX.1-dev" in refusal(ValueError)


def test_nothing_is_downloaded_unasked_or_if_the_base_is_here(hub, monkeypatch, tmp_path):
    (tmp_path / "weights/dev").mkdir(parents=True)
    write(tmp_path / "weights/dev/model_index.json", b"{}")
    lines = []
    monkeypatch.setenv("FLUX_BASE_URL", f"hf://{DEV}")
    assert find_base(log_line=lines.append).path == tmp_path / "weights/dev"
    assert lines == [f"FLUX_BASE_URL is not used: the base dev is in {tmp_path / 'weights/dev'}"]
    monkeypatch.setenv("FLUX_BASE", "schnell")
    monkeypatch.delenv("FLUX_BASE_URL")
    refusal(FileNotFoundError)
    assert hub.requests == []


def test_the_token_of_the_deployment_is_sent(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "mine")
    monkeypatch.setenv("FLUX_BASE_URL", f"hf://{REPOSITORY}")
    find_base()
    assert {request.headers["authorization"] for request in hub.requests} == {"Bearer mine"}


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("url", "found"),
    [("http://h.test/a.tar", "is neither a repository"), ("hf://o/none", "hf://o/none@main was not found")],
)
def test_a_url_that_does_not_work_is_refused_under_its_name(monkeypatch, url, found):
    monkeypatch.setenv("FLUX_BASE_URL", url)
    with pytest.raises(ValueError) as error:
        find_base()
    assert_one_sentence(error.value, "FLUX_BASE_URL ", found)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("black-forest-labs/FLUX.1-dev", "`script/download dev` downloads it, then set FLUX_BASE=dev"),
        ("black-forest-labs/flux.2-klein-base-4b", "`script/download klein` downloads it, then set FLUX_BASE=klein"),
        ("o/my-flux", f"`script/download o/my-flux` downloads it, then set FLUX_BASE={WEIGHTS / 'my-flux'}"),
        ("hf://o/my-flux", "a URL belongs into FLUX_BASE_URL"),
        ("https://h.test/a.tar?sig=s3cret", "a URL belongs into FLUX_BASE_URL"),
        (__file__, "is the file"),
    ],
)
def test_what_is_no_folder_gets_the_command_or_setting_that_would_do(monkeypatch, name, found):
    monkeypatch.setenv("FLUX_BASE", name)
    message = refusal(ValueError)
    assert found in message
    assert "s3cret" not in message
