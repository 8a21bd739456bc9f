"""`script/download` fetches a base into weights/, says what it is first, and repeats nothing."""

import sys

import pytest
import torch
from safetensors.torch import save

from script import download as download_command
from tests.base_services import LARGE, REPOSITORY, Files, Hub, downloads, files_of, small_base
from tests.services import send, service
from tests.tiny import assert_one_sentence
from weights import bases, caption_model
from weights.bases import find_base
from weights.catalogue import EMBEDDED, PUBLISHED, published

DEV = published("dev").repository
KLEIN = [base for base in PUBLISHED if base.name.startswith("klein")]


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub on this machine with a small base in place of FLUX.1-dev, which is gated, and an empty weights/."""
    files = files_of(small_base(tmp_path / "small"))
    monkeypatch.setattr(bases, "WEIGHTS", tmp_path / "weights")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", "mine")
    with service(Hub(Files(files), repository=DEV, token="mine")) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["script/download", *arguments])
    download_command.main()


def refusal(monkeypatch, *arguments):
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, *arguments)
    return str(ended.value.code)


def test_the_command_that_an_error_names_makes_the_base_available(hub, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("FLUX_BASE", "dev")
    with pytest.raises(FileNotFoundError, match="then run `script/download dev`"):
        find_base()
    run(monkeypatch, "dev")
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith("black-forest-labs/FLUX.1-dev at commit ")
    assert "licence small-licence; gated: it must be accepted at huggingface.co/black-forest-labs/FLUX.1-dev" in first
    assert last == "use it with FLUX_BASE=dev"
    assert find_base().path == tmp_path / "weights/dev"
    count = len(downloads(hub))
    run(monkeypatch, f"hf://{DEV}")
    assert [path for path in downloads(hub)[count:] if path.endswith(".safetensors")] == []


def test_a_base_that_was_damaged_since_is_repaired(hub, monkeypatch, tmp_path):
    run(monkeypatch, "dev")
    whole = files_of(tmp_path / "weights/dev")
    (tmp_path / "weights/dev" / LARGE).write_bytes(whole[LARGE][:-1] + b"?")
    run(monkeypatch, "dev")
    assert files_of(tmp_path / "weights/dev") == whole
    assert downloads(hub).count(LARGE) == 2


@pytest.mark.usefixtures("hub")
def test_without_access_it_says_what_to_do(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "theirs")
    message = refusal(monkeypatch, "dev")
    assert_one_sentence(message, "error: hf://black-forest-labs/FLUX.1-dev@main is not accessible", "HF_TOKEN")


@pytest.mark.parametrize("base", KLEIN, ids=lambda base: base.name)
def test_flux_2_klein_is_downloaded_with_its_own_files_and_resumed(monkeypatch, tmp_path, capsys, base):
    """The single file of the original layout, beside the folders of diffusers, is not."""
    whole = files_of(small_base(tmp_path / "small", base.kind))
    cuts = {LARGE: 1000} if base.name == "klein" else {}  # once, as the retry waits for a second
    published_files = Files({**whole, "flux-2-klein.safetensors": b"x"}, cuts)
    monkeypatch.setattr(bases, "WEIGHTS", tmp_path / "weights")
    monkeypatch.setenv("HF_TOKEN", "mine" if base.is_gated else "")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    token = "mine" if base.is_gated else ""
    with service(Hub(published_files, repository=base.repository, token=token)) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        run(monkeypatch, base.name)
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{base.repository} at commit ")
    assert ("gated: it must be accepted" in first) is base.is_gated
    assert last == f"use it with FLUX_BASE={base.name}"
    assert files_of(tmp_path / "weights" / base.name) == whole
    monkeypatch.setenv("FLUX_BASE", base.name)
    assert find_base().path == tmp_path / "weights" / base.name


def test_a_token_that_the_hub_refuses_is_not_needed_for_an_open_base(monkeypatch, tmp_path):
    """Hugging Face answers 401 to a token that has expired, whatever is asked for."""
    monkeypatch.setattr(bases, "WEIGHTS", tmp_path / "weights")
    monkeypatch.setenv("HF_TOKEN", "expired")
    with service(lambda request, _: send(request, status=401)) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        message = refusal(monkeypatch, "klein")
    assert_one_sentence(message, "is not accessible with this token", "needs no token: unset HF_TOKEN")
    assert "accept the licence" not in message


@pytest.mark.parametrize("base", EMBEDDED, ids=lambda base: base.name)
def test_an_embedded_base_is_not_looked_for_on_the_hub(monkeypatch, base):
    found = f"error: base is {base.name}, which comes with this project in weights/{base.folder}: expected dev"
    assert_one_sentence(refusal(monkeypatch, base.name), found)


def test_the_help_says_what_each_base_is_licensed_under_and_which_need_an_account(monkeypatch, capsys):
    assert refusal(monkeypatch, "--help") == "0"
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "klein black-forest-labs/FLUX.2-klein-base-4B, Apache-2.0, needs no account" in lines
    assert f"dev {DEV}, flux-1-dev-non-commercial-license, needs an account that has accepted its licence" in lines


@pytest.mark.usefixtures("hub")
def test_another_repository_goes_into_a_folder_of_its_name(monkeypatch, tmp_path, capsys):
    with service(Hub(Files(files_of(tmp_path / "small")))) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        run(monkeypatch, REPOSITORY)
    assert capsys.readouterr().out.splitlines()[-1] == f"use it with FLUX_BASE={tmp_path / 'weights/small'}"


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("devv", "is not a model on Hugging Face"),
        ("https://h.test/a.tar", "the URL of a tar: expected a name on Hugging Face; FLUX_BASE_URL takes tars"),
    ],
)
def test_what_is_no_repository_is_refused(monkeypatch, name, found):
    assert_one_sentence(refusal(monkeypatch, name), "error: base ", found)


@pytest.mark.usefixtures("hub")
def test_ctrl_c_says_that_it_continues(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("weights.base_fetching.write_manifest", interrupted)
    assert refusal(monkeypatch, "dev") == "130"
    assert capsys.readouterr().err == "stopped; `script/download dev` continues\n"


@pytest.fixture
def captioner_hub(monkeypatch, tmp_path):
    """A Hub with a small captioner in place of Qwen3-VL, beside code and pickles."""
    files = {
        "config.json": b'{"model_type": "qwen3_vl", "architectures": ["Qwen3VLForConditionalGeneration"]}',
        "model.safetensors": save({"head": torch.ones(2)}),
        "modeling.py": b"raise SystemExit",
        "pytorch_model.bin": b"a pickle",
    }
    monkeypatch.setattr(caption_model, "FOLDER", tmp_path / "weights/captioner")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with service(Hub(Files(files), repository=caption_model.REPOSITORY)) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def test_a_captioner_is_downloaded_without_code_and_found(captioner_hub, monkeypatch, tmp_path, capsys):
    assert caption_model.find_captioner() is None
    run(monkeypatch, "captioner")
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith("Qwen/Qwen3-VL-2B-Instruct at commit ")
    assert last == "trainings use it: with autocaption, images without a caption are described"
    assert sorted(downloads(captioner_hub)) == ["config.json", "model.safetensors"]
    found = caption_model.find_captioner()
    assert (found.path, found.name) == (tmp_path / "weights/captioner", caption_model.REPOSITORY)
    run(monkeypatch, "captioner")
    assert downloads(captioner_hub).count("model.safetensors") == 1


@pytest.mark.usefixtures("captioner_hub")
def test_another_captioner_is_not_mixed_with_the_one_that_is_there(monkeypatch):
    run(monkeypatch, "captioner")
    message = refusal(monkeypatch, "captioner", "--florence")
    assert_one_sentence(message, "holds the captioner Qwen/Qwen3-VL-2B-Instruct: expected", "FLUX_CAPTIONER")
    (caption_model.FOLDER / "manifest.json").unlink()
    assert "holds the captioner Qwen3VLForConditionalGeneration" in refusal(monkeypatch, "captioner")


def test_the_small_captioner_is_another_repository(captioner_hub, monkeypatch):
    message = refusal(monkeypatch, "captioner", "--florence")
    assert_one_sentence(message, f"error: hf://{caption_model.SMALL_REPOSITORY}@main was not found")
    assert downloads(captioner_hub) == []
