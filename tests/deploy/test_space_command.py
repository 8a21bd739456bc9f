"""`script/space` creates a Space on the Hub with the page and its settings, or says in one sentence why it cannot."""

import sys

import pytest
from huggingface_hub import HfApi, SpaceCard

from lora.publishing.hub_process import Request, SpaceSettings, answer
from script import space, space_files
from tests.fake_hub import READ, WRITE, Repository, fake_hub
from tests.tiny import assert_one_sentence
from weights.base_kind import KLEIN
from weights.catalogue import PUBLISHED

CARD = b"---\nbase_model: black-forest-labs/FLUX.1-dev\n---\n"
KEY = "spaces/me/my-lora-demo"


@pytest.fixture
def hub(monkeypatch):
    with fake_hub() as hub:
        hub.repositories["me/my-lora"] = Repository(True, {"README.md": CARD, "lora.safetensors": b""})
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", WRITE)
        monkeypatch.delenv("SPACE_HF_TOKEN", raising=False)
        yield hub


def command(monkeypatch, *arguments):
    """Run script/space in this process."""
    monkeypatch.setattr(sys, "argv", ["script/space", *arguments])
    space.main()


def error_of(monkeypatch, *arguments):
    with pytest.raises(SystemExit) as ended:
        command(monkeypatch, *arguments)
    return str(ended.value.code)


def opened(hub, repository="me/demo", token=WRITE):
    """What the process that talks to the Hub answers, in this process."""
    settings = SpaceSettings("zero-a10g", "page.py", {}, {})
    return answer(HfApi(endpoint=hub.url, token=token), Request(repository, token, True, None, settings))


def test_a_private_space_gets_the_page_and_its_settings_though_the_first_commit_fails(hub, monkeypatch, capsys):
    hub.faults["/commit/"] = [500]
    command(monkeypatch, "me/my-lora")
    made, lines = hub.repositories[KEY], capsys.readouterr().out.splitlines()
    assert (made.is_private, made.hardware, made.commits) == (True, "zero-a10g", 1)
    url = "hf://black-forest-labs/FLUX.1-dev"
    assert made.variables == {"LORA": "hf://me/my-lora", "FLUX_BASE": "dev", "FLUX_BASE_URL": url}
    assert made.secrets == {}, "no token unless that is asked for"
    url = f"{hub.url}/spaces/me/my-lora-demo"
    assert lines[:2] == [f"the page will be uploaded to {url}, which is private", f"uploaded to {url}"]
    assert "black-forest-labs/FLUX.1-dev and me/my-lora with its secret HF_TOKEN, which is not set" in lines[2]
    assert not [name for name in made.files if name.startswith(("weights/tiny-flux/", "tests/", "train"))]


def test_a_token_is_stored_as_a_secret_if_that_is_asked_for_and_is_never_shown(hub, monkeypatch, capsys):
    hub.repositories[KEY] = Repository(is_private=False)
    monkeypatch.setenv("SPACE_HF_TOKEN", READ)
    command(monkeypatch, "me/my-lora", "--with-token", "--base", "schnell")
    made, said = hub.repositories[KEY], capsys.readouterr()
    assert made.secrets == {"HF_TOKEN": READ}
    assert made.variables["FLUX_BASE_URL"] == "hf://black-forest-labs/FLUX.1-schnell"
    assert "which existed and is public: that is not changed" in said.out
    assert "its secret HF_TOKEN is set" in said.out
    assert "s3cret" not in f"{said}{made.files}"


@pytest.mark.parametrize("base", [base for base in PUBLISHED if base.kind is KLEIN], ids=lambda base: base.name)
def test_a_public_lora_needs_a_token_only_for_a_gated_base(hub, monkeypatch, capsys, base):
    card = f"---\nbase_model: {base.repository}\n---\n".encode()
    hub.repositories["me/my-lora"] = Repository(False, {"README.md": card, "lora.safetensors": b""})
    command(monkeypatch, "me/my-lora")
    url = f"hf://{base.repository}"
    assert hub.repositories[KEY].variables == {"LORA": "hf://me/my-lora", "FLUX_BASE": base.name, "FLUX_BASE_URL": url}
    said = capsys.readouterr().out
    assert (f"it reads {base.repository} with its secret HF_TOKEN, which is not set" in said) is base.is_gated
    assert base.is_gated or "token" not in said


def test_the_readme_tells_the_hub_how_to_run_it():
    data = SpaceCard(space_files.readme("my-lora-demo", ["me/my-lora"], "zero-a10g")).data
    assert (data.sdk, data.sdk_version, data.app_file) == ("gradio", space_files.pinned("gradio"), "app.py")
    assert (data.python_version, data.suggested_hardware, data.models) == ("3.12", "zero-a10g", ["me/my-lora"])


def test_the_requirements_of_a_space_suit_zerogpu():
    names = [line.partition("==")[0] for line in (space_files.ROOT / space_files.REQUIREMENTS).read_text().splitlines()]
    assert space_files.pinned("torch") == "2.11.0", "the newest that ZeroGPU offers"
    assert {"cog", "coglet", "diffusers", "gradio", "spaces"} <= set(names)
    assert not {"runpod", "wandb", "triton"} & set(names)
    assert "pydantic" not in names, "gradio[mcp], which a Space installs, needs an older one than the lock has"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["trained_model.tar"], "lora is the file trained_model.tar: expected a repository on Hugging Face; `script/"),
        (["a.safetensors"], "lora is the file a.safetensors: expected a repository on Hugging Face"),
        (["my-lora"], "lora is 'my-lora': expected owner/name"),
        (["me/my-lora", "--name", "demo"], "--name is 'demo': expected owner/name"),
        ([" "], "lora is empty: expected owner/name"),
    ],
)
def test_a_wrong_name_is_refused_without_a_request(hub, monkeypatch, arguments, sentence):
    assert_one_sentence(error_of(monkeypatch, *arguments), f"error: {sentence}")
    assert hub.requests == []


def test_a_missing_token_is_refused_without_a_request(hub, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    sentence = "error: the token of HF_TOKEN or `hf auth login` is missing: expected one with write access to me/x-demo"
    assert_one_sentence(error_of(monkeypatch, "me/x"), sentence)
    assert hub.requests == []


def test_a_lora_that_does_not_exist_or_has_another_base_is_refused_before_a_space_is_created(hub, monkeypatch):
    assert_one_sentence(
        error_of(monkeypatch, "me/other"), "error: lora is 'me/other': Hugging Face has no such repository, or"
    )
    hub.repositories["me/my-lora"].files["README.md"] = b"---\nbase_model: black-forest-labs/FLUX.2-dev\n---\n"
    assert_one_sentence(
        error_of(monkeypatch, "me/my-lora"),
        "error: lora is 'me/my-lora', whose card names the base black-forest-labs/FLUX.2-dev: expected one of",
        "or --base",
    )
    assert list(hub.repositories) == ["me/my-lora"]


@pytest.mark.parametrize("files", [{}, {"a.safetensors": b"", "b.safetensors": b""}, {"model.bin": b""}])
def test_a_repository_in_which_the_page_would_find_no_lora_is_refused_before_a_space_is_created(
    hub, monkeypatch, files
):
    hub.repositories["me/my-lora"].files = {"README.md": CARD, **files}
    assert_one_sentence(
        error_of(monkeypatch, "me/my-lora"), "error: lora is 'me/my-lora', which has ", "expected the repository of one"
    )
    assert list(hub.repositories) == ["me/my-lora"]


def test_a_space_with_another_page_is_not_overwritten_and_an_empty_one_is_filled(hub, monkeypatch):
    hub.repositories[KEY] = Repository(False, {"README.md": b"---\nsdk: docker\n---\n", "Dockerfile": b"FROM x"})
    said = error_of(monkeypatch, "me/my-lora", "--with-token")
    assert_one_sentence(said, "error: --name is 'me/my-lora-demo': it is a Space with other files", "expected the name")
    made = hub.repositories[KEY]
    assert (made.commits, made.variables, made.secrets) == (0, {}, {})
    del made.files["Dockerfile"]
    for _ in range(2):
        command(monkeypatch, "me/my-lora")
    assert made.commits == 2


def test_another_base_replaces_that_of_an_earlier_run(hub, monkeypatch):
    for base in ("tiny", "krea"):
        command(monkeypatch, "me/my-lora", "--base", base)
    assert hub.repositories[KEY].variables["FLUX_BASE"] == "krea"


@pytest.mark.parametrize(
    ("repository", "token", "error"),
    [
        ("me/demo", READ, "{token} has the role read: expected a token with write access"),
        ("you/demo", WRITE, "{token} does not give write access to it"),
        ("you/theirs", WRITE, "{token} does not give write access to it"),
    ],
)
def test_a_space_that_cannot_be_written_is_refused(hub, repository, token, error):
    hub.repositories["spaces/you/theirs"] = Repository(is_private=False)
    reply = opened(hub, repository, token)
    assert reply.error.startswith(error)
    assert_one_sentence(reply.error, "expected")
    assert "spaces/me/demo" not in hub.repositories


def test_hardware_that_costs_something_is_refused_with_what_to_do(hub):
    hub.faults["/repos/create"] = [402]
    assert_one_sentence(
        opened(hub).error, "Hugging Face asks for payment (it broke): expected", "the hardware cpu-basic of a Space"
    )
