"""The commands in script/ work, and refuse wrong arguments in one sentence."""

import os
import re
import socket
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml
from PIL import Image
from safetensors.torch import save_file

from lora.training.result.output import LORA_NAME
from script import train as train_command
from script.tiny_flux.monster import ARCHIVE
from tests.tiny import assert_one_sentence, one_layer_lora, read_archive, without_gpu, without_network
from tests.warm_process import run_command

pytestmark = pytest.mark.xdist_group("warm")

ROOT = Path(__file__).resolve().parents[1]


def script_train(*arguments: object, base: str = "tiny", **environment: str) -> subprocess.CompletedProcess[str]:
    """`script/train` in the environment that the tests run in."""
    return run_command("script.train", *arguments, FLUX_BASE=base, **environment)


def test_train_has_flags_for_the_inputs_of_the_signature():
    help_text = " ".join(script_train("--help").stdout.split())  # argparse wraps lines at the width of the terminal
    for flag in (
        "--trigger-word",
        "--steps",
        "--learning-rate",
        "--batch-size",
        "--resolution",
        "--lora-rank",
        "--seed",
        "--input-captions",
        "--cache-latents-to-disk",
        "--lora-type",
        "--optimizer",
        "--layers",
        "--precision",
        "--time-limit",
        "--sample-prompts",
        "--resume-from",
        "--resume",
    ):
        assert flag in help_text
    assert "default: 512,768,1024" in help_text


def test_train_writes_the_tar_to_the_output_path(tmp_path: Path):
    output = tmp_path / "mine.tar"
    small = ("--steps", 3, "--resolution", 64, "--lora-rank", 2, "--sample-steps", 1)
    run = script_train(ARCHIVE, *small, "--output", output)
    assert run.returncode == 0, run.stderr
    with tarfile.open(output) as tar:
        names = tar.getnames()
    assert LORA_NAME in names
    samples = [Path(name).name for name in names if "/samples/" in name]
    assert sum(name.startswith("step-000000-") for name in samples) == 2, "of a caption and of the trigger word"
    assert sum(name.startswith("step-000003-") for name in samples) == 2, "by default only before and after"
    assert "TOK: training report" in output.with_suffix(".html").read_text()
    assert run.stdout.splitlines()[-1] == f"wrote {output.with_suffix('.html')}: open it in a browser"
    assert re.search(r"step 3/3 .* loss \d", run.stdout)
    assert re.search(r"held out for validation: '\S+'", run.stdout)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--steps", 6001], "steps is 6001: expected 0 to 6000"),
        (["--resolution", "huge"], "resolution is 'huge': expected sizes in pixels"),
        (["--lora-rank", 4096], "lora_rank is 4096: expected 0 to 128"),
        (["--seed", -1, "--optimizer", "AdamW8bit", "--batch-size", 257], "batch_size is 257: expected 1 to 256"),
        (["--optimizer", "sgd"], "optimizer is 'sgd': expected one of adamw8bit"),
        (["--layers", "nothing.like.it"], "layers is 'nothing.like.it'"),
        (["--resume", "--resume-from", "latest"], "--resume and --resume-from are both given: expected one of them"),
        (["--resume-from", "nothing.tar"], "resume_from 'nothing.tar' does not exist: expected"),
    ],
)
def test_train_refuses_a_bad_flag_in_one_sentence(monkeypatch, arguments, sentence):
    """In this process, which has already imported the modules that take seconds to import."""
    monkeypatch.setenv("FLUX_BASE", "tiny")
    monkeypatch.setattr(sys, "argv", ["script/train", str(ARCHIVE), *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        train_command.main()
    assert str(ended.value.code).startswith(f"error: {sentence}")
    assert "\n" not in str(ended.value.code)


def test_train_without_images_is_refused_in_one_sentence(monkeypatch):
    monkeypatch.setenv("FLUX_BASE", "tiny")
    monkeypatch.setattr(sys, "argv", ["script/train"])
    with pytest.raises(SystemExit) as ended:
        train_command.main()
    assert_one_sentence(ended.value.code, "error: input_images is missing", "expected a zip")


def test_train_returns_an_existing_lora_without_images(monkeypatch, tmp_path: Path):
    save_file(one_layer_lora(), tmp_path / "a.safetensors")
    arguments = ["--skip-training-and-use-pretrained-hf-lora-url", str(tmp_path / "a.safetensors")]
    monkeypatch.setenv("FLUX_BASE", "tiny")
    monkeypatch.setattr(sys, "argv", ["script/train", *arguments, "--output", str(tmp_path / "mine.tar")])
    train_command.main()
    with tarfile.open(tmp_path / "mine.tar") as tar:
        assert tar.getnames() == [LORA_NAME]


def test_a_refusal_ends_the_process_with_an_error_and_without_a_traceback():
    run = script_train(ARCHIVE, "--steps", 6001)
    assert run.returncode == 1
    assert run.stderr.strip().splitlines()[-1].startswith("error: steps is 6001")
    assert "Traceback" not in run.stderr


def test_train_resolves_paths_in_the_working_directory_of_its_caller(tmp_path: Path):
    (tmp_path / "photos.zip").write_bytes(b"no zip")
    (tmp_path / "train.py").write_text("raise RuntimeError('the wrong train.py')")
    run = subprocess.run(
        [ROOT / "script/train", "photos.zip"],
        check=False,
        cwd=tmp_path,
        env={**os.environ, "FLUX_BASE": "tiny"},
        capture_output=True,
        text=True,
    )
    assert run.stderr.startswith("error: input_images is something else of 6 bytes: expected a zip"), run.stderr


def test_the_error_for_a_missing_base_has_its_path_and_what_to_do():
    run = script_train(ARCHIVE, base="dev", FLUX_GPU="optional")
    last = run.stderr.strip().splitlines()[-1]
    assert run.returncode == 1
    assert run.stdout == "", "nothing is read before"
    for part in (
        "FLUX_BASE is dev",
        "model_index.json",
        f"{ROOT}/weights/dev",
        "black-forest-labs/FLUX.1-dev",
        "script/download dev",
    ):
        assert part in last


@without_gpu
def test_a_published_base_is_not_trained_without_a_gpu_and_nothing_is_downloaded(monkeypatch, capsys):
    monkeypatch.setenv("FLUX_BASE", "dev")
    monkeypatch.delenv("FLUX_GPU", raising=False)
    lora = "https://example.com/lora.safetensors"
    monkeypatch.setattr(sys, "argv", ["script/train", str(ARCHIVE), "--resume-from", lora])
    with without_network() as asked, pytest.raises(SystemExit) as ended:
        train_command.main()
    assert_one_sentence(ended.value.code, "error: the base dev needs a GPU", "set FLUX_GPU=optional")
    assert (asked, capsys.readouterr().out) == ([], ""), "no host is asked and no image read"


def test_train_and_check_accept_a_folder_like_an_archive(tmp_path: Path):
    folder, output = tmp_path / "photos", tmp_path / "mine.tar"
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(folder / "deep")
    (folder / ".git").mkdir()
    (folder / ".git/a.png").write_bytes(b"not the person's")
    environment = {"FLUX_LORA_FILES": ""}  # is for servers
    small = ("--steps", 1, "--resolution", 64, "--lora-rank", 2, "--sample-prompts", "none")
    run = script_train(folder, *small, "--output", output, **environment)
    assert "15 images, 15 with a caption: 15 from .txt files" in run.stdout, run.stderr
    assert output.is_file()
    checked = script_check(folder, "--output", tmp_path / "sheet.png")
    assert checked.stdout.startswith("15 images, 15 with a caption: 15 from .txt files"), checked.stderr


def test_a_server_refuses_a_folder(tmp_path: Path):
    """Otherwise a client could list files of the server."""
    with pytest.raises(ValueError, match=r"^input_images is '.*', a folder: expected a zip, tar or tar.gz of images$"):
        read_archive(tmp_path, into=tmp_path / "into")


def script_check(*arguments: object) -> subprocess.CompletedProcess[str]:
    """`script/check` without a base."""
    return run_command("script.check", *arguments, FLUX_BASE="none")


def test_check_shows_the_images_and_prompts_of_a_training(tmp_path: Path):
    """Without a base, it prints the summary and writes a sheet of all images."""
    output = tmp_path / "sheet.png"
    run = script_check(ARCHIVE, "--resolution", 64, "--autocaption-prefix", "a photo of", "--output", output)
    lines = run.stdout.splitlines()
    assert lines[1:3] == ["sizes in training", "  64x64: 15 images"], run.stderr
    assert "  a photo of TOK on a white background" in lines
    assert lines[-1] == f"wrote {output}: all images, cropped as in training"
    with Image.open(output) as sheet:
        assert sheet.width > 1000
        assert len(sheet.convert("RGB").getcolors(2**24)) > 1000, "there are pictures on it"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nothing.zip"], "input_images is 'nothing.zip', where no file is: expected a zip"),
        ([ARCHIVE, "--resolution", "huge"], "resolution is 'huge': expected sizes in pixels"),
        ([ARCHIVE, "--input-captions", "nothing.tar"], "input_captions is 'nothing.tar', where no file is"),
        ([ARCHIVE, "--output", "no/folder/sheet.png"], "--output is 'no/folder/sheet.png': expected"),
    ],
)
def test_check_refuses_in_one_sentence(arguments, sentence):
    run = script_check(*arguments)
    assert run.returncode == 1
    assert run.stderr.strip().splitlines()[-1].startswith(f"error: {sentence}"), run.stderr
    assert "Traceback" not in run.stderr


def test_train_does_not_start_if_its_output_cannot_be_written(tmp_path: Path):
    run = script_train(ARCHIVE, "--output", tmp_path)
    assert run.stderr.startswith(f"error: --output is {str(tmp_path)!r}: expected a file in an existing folder")


def test_serve_refuses_a_port_that_is_in_use():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        command = [sys.executable, "-m", "script.serve", "--port", str(port)]
        run = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert run.stderr.startswith(f"error: port {port} cannot be used")


def test_requirements_for_cog_are_flat_and_pinned():
    lines = (ROOT / "requirements.txt").read_text().splitlines()[1:]
    assert all(re.fullmatch(r"[a-z0-9.-]+==[0-9a-z.]+", line) for line in lines)
    assert "torch==2.11.0" in lines


def test_cog_yaml_names_the_two_interfaces_and_the_newest_torch_that_cog_knows():
    config = yaml.safe_load((ROOT / "cog.yaml").read_text())
    assert (config["run"], config["train"]) == ("predict.py:Runner", "train.py:train")
    assert config["build"]["python_requirements"] == "requirements.txt"
