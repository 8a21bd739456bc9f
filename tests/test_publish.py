"""From a training to a repository on Hugging Face: checked first, never at the cost of the LoRA, and possible later."""

import os
import re
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from deploy.runpod.training import upload_of
from lora.publishing.hub import HubTarget
from lora.training.publishing import open_hub, publish
from script import publish as publish_command
from script import train as train_command
from tests.fake_hub import READ, WRITE, fake_hub
from tests.servers import Tar
from tests.tiny import assert_one_sentence, checked_config, load_tensors, write
from tests.warm_process import run_command, small_archive

pytestmark = pytest.mark.xdist_group("warm")

ROOT = Path(__file__).resolve().parents[1]
FOLDER = "output/flux_train_replicate"
LATER = re.compile(r"`script/(publish) trained_model\.tar (me/lora)( --public)?` uploads its tar later")


class Lines(list):
    """A log that keeps its lines."""

    def write(self, *lines: str) -> None:
        """Keep lines."""
        self.extend(lines)


@pytest.fixture
def hub(monkeypatch):
    with fake_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", WRITE)
        yield hub


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    """A training on the embedded base whose upload the Hub refuses after all, and its tar."""
    folder = tmp_path_factory.mktemp("refused")
    flags = ("--steps", 1, "--resolution", 64, "--lora-rank", 2, "--learning-rate", 0.01, "--sample-steps", 1)
    with fake_hub(**{"/commit/": [403]}) as hub:
        environment = {"FLUX_BASE": "tiny", "HF_ENDPOINT": hub.url, "HF_TOKEN": WRITE}
        arguments = (small_archive(folder), *flags, "--hf-repo-id", "me/lora", "--output", folder / "trained_model.tar")
        run = run_command("script.train", *arguments, **environment)
    return run, folder / "trained_model.tar"


def command(monkeypatch, module, *arguments):
    """Run a command in this process."""
    monkeypatch.setattr(sys, "argv", [f"script/{module.__name__}", *map(str, arguments)])
    module.main()


def error_of(monkeypatch, module, *arguments):
    """The last words of a command in this process."""
    with pytest.raises(SystemExit) as ended:
        command(monkeypatch, module, *arguments)
    return str(ended.value.code)


def test_a_failed_upload_does_not_fail_the_training_and_the_command_in_its_log_uploads_the_tar(
    hub, refused, monkeypatch, capsys
):
    run, tar = refused
    assert run.returncode == 0, run.stderr
    log = run.stdout.splitlines()
    assert any(line.endswith("/me/lora, which is private") for line in log[:3]), "before anything is read"
    assert "s3cret" not in f"{run.stdout}{run.stderr}"
    name, repository, _ = LATER.search(run.stdout).groups()
    assert name == "publish"
    command(monkeypatch, publish_command, tar, repository)
    assert capsys.readouterr().out.splitlines()[-1] == f"uploaded to {hub.url}/me/lora"
    files, kept = hub.repositories["me/lora"].files, Tar(tar.read_bytes())
    assert hub.repositories["me/lora"].is_private
    assert files["NOTICE"] == kept.file(f"{FOLDER}/NOTICE")
    tensors = load_tensors(files["lora.safetensors"])
    assert all(tensors[name].equal(tensor) for name, tensor in kept.tensors.items())
    assert [each["text"] for each in ModelCard(files["README.md"].decode()).data.widget] == ["TOK in the desert"]


def test_the_program_in_the_card_of_a_tar_runs_as_it_stands(refused, tmp_path, monkeypatch):
    _, tar = refused
    for name, content in Tar(tar.read_bytes()).files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / name, content)
    (tmp_path / "weights").symlink_to(ROOT / "weights")
    card = (tmp_path / FOLDER / "README.md").read_text()
    monkeypatch.chdir(tmp_path)
    exec(card.partition("```python\n")[2].partition("\n```\n")[0], {})
    assert (tmp_path / "image.png").stat().st_size > 1000


def test_a_repository_that_cannot_be_written_is_refused_before_anything_is_read(hub, monkeypatch, capsys):
    monkeypatch.setenv("FLUX_BASE", "tiny")
    monkeypatch.setenv("HF_TOKEN", READ)
    error = error_of(monkeypatch, train_command, "no-such.zip", "--hf-repo-id", "me/lora")
    assert_one_sentence(
        error, "error: hf_repo_id is 'me/lora': hf_token has the role read: expected a token with write"
    )
    assert (capsys.readouterr().out, hub.repositories) == ("", {})


def test_a_request_without_a_token_does_not_use_that_of_the_server(hub):
    inputs = checked_config(hf_repo_id="me/lora").public_trainer
    with pytest.raises(ValueError) as error:
        open_hub(inputs, Lines())
    assert_one_sentence(error.value, "hf_token is missing: expected a token with write access to me/lora")
    assert hub.requests == []


def test_a_hub_that_is_down_is_reported_with_what_to_do(hub):
    hub.faults["whoami"] = [503]
    inputs = checked_config(hf_repo_id="me/lora", hf_token=WRITE).public_trainer
    with pytest.raises(OSError, match="try again later, or train without hf_repo_id"):
        open_hub(inputs, Lines())


def test_the_command_for_later_makes_a_public_repository_where_that_was_asked_for(tmp_path):
    log, target = Lines(), HubTarget("me/lora", WRITE, False, named="hf_repo_id", token_named="hf_token")
    publish(write(tmp_path / "trained_model.tar", b"damaged"), target, into=tmp_path, log=log, interrupted=lambda: None)
    assert LATER.search(log[-1])[3] == " --public"
    assert "trained_model.tar is no tar" in log[-1]


def test_a_worker_of_runpod_sees_in_the_log_what_came_of_the_upload(hub, refused, tmp_path):
    log, inputs = Lines(), checked_config(hf_repo_id="me/lora", hf_token=WRITE).public_trainer
    publish(refused[1], open_hub(inputs, log), into=tmp_path, log=log, interrupted=lambda: None)
    assert upload_of(log) == {"hub": f"{hub.url}/me/lora"}
    failed = upload_of(refused[0].stdout.splitlines())["hub_error"]
    assert failed.startswith("the upload to me/lora failed: ")


def test_without_a_repository_nothing_is_uploaded(hub, tmp_path):
    log = Lines()
    assert open_hub(checked_config(hf_token=WRITE).public_trainer, log) is None
    publish(tmp_path / "trained_model.tar", None, into=tmp_path, log=log, interrupted=lambda: None)
    assert (log, hub.requests) == ([], [])


@pytest.mark.parametrize(
    ("arguments", "token", "sentence"),
    [
        (["no-such.tar", "me/lora"], WRITE, "error: no-such.tar cannot be read (No such file or directory)"),
        (["no-such.tar", "lora"], WRITE, "error: repository is 'lora': expected owner/name"),
        (["no-such.tar", " "], WRITE, "error: repository is empty: expected owner/name"),
        (["no-such.tar", "me/lora"], "", "error: the token of HF_TOKEN or `hf auth login` is missing"),
    ],
)
def test_publish_refuses_in_one_sentence_before_a_repository_is_created(
    hub, monkeypatch, tmp_path, arguments, token, sentence
):
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    assert_one_sentence(error_of(monkeypatch, publish_command, *arguments), sentence, "expected")
    assert hub.requests == []


@pytest.mark.usefixtures("hub")
def test_publish_names_its_own_arguments(refused, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", READ)
    error = error_of(monkeypatch, publish_command, refused[1], "me/lora", "--public")
    assert_one_sentence(
        error, "error: repository is 'me/lora': the token of HF_TOKEN or `hf auth login` has the role read"
    )
    assert os.environ["HF_TOKEN"] not in error
