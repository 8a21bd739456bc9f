"""What a person types answers as it should, mistakes included."""

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

from lora.training.result.output import LORA_NAME
from script import train as train_command
from script.tiny_flux.monster import ARCHIVE
from tests.tiny import read_archive
from tests.warm_process import run_command

pytestmark = pytest.mark.xdist_group("warm")

ROOT = Path(__file__).resolve().parents[1]


def script_train(*arguments: object, base: str = "tiny") -> subprocess.CompletedProcess[str]:
    """`script/train` in the environment that the tests run in."""
    return run_command("script.train", *arguments, FLUX_BASE=base)


def test_train_has_a_flag_for_each_input_of_the_signature():
    shown = " ".join(script_train("--help").stdout.split())  # argparse breaks lines at the width of the terminal
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
        assert flag in shown
    assert "default: 512,768,1024" in shown


def test_train_writes_the_tar_where_it_is_asked(tmp_path: Path):
    output = tmp_path / "mine.tar"
    run = script_train(ARCHIVE, "--steps", 3, "--resolution", 64, "--lora-rank", 2, "--output", output)
    assert run.returncode == 0, run.stderr
    with tarfile.open(output) as tar:
        assert LORA_NAME in tar.getnames()
    assert re.search(r"step 3/3 .* loss \d", run.stdout)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--steps", 6001], "steps is 6001: expected 0 to 6000"),
        (["--resolution", "huge"], "resolution is 'huge': expected sides in pixels"),
        (["--lora-rank", 4096], "lora_rank is 4096: expected 0 to 128"),
        (["--layers", "nothing.like.it"], "layers is 'nothing.like.it'"),
        (["--resume-from", "nothing.tar"], "resume_from 'nothing.tar' is not there: expected"),
    ],
)
def test_train_refuses_a_bad_flag_in_one_sentence(monkeypatch, arguments, sentence):
    """In this process, which has imported all that takes seconds."""
    monkeypatch.setenv("FLUX_BASE", "tiny")
    monkeypatch.setattr(sys, "argv", ["script/train", str(ARCHIVE), *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        train_command.main()
    assert str(ended.value.code).startswith(f"error: {sentence}")
    assert "\n" not in str(ended.value.code)


def test_a_refusal_is_an_error_of_the_process_without_a_traceback():
    run = script_train(ARCHIVE, "--steps", 6001)
    assert run.returncode == 1
    assert run.stderr.strip().splitlines()[-1].startswith("error: steps is 6001")
    assert "Traceback" not in run.stderr


def test_train_takes_paths_as_its_caller_sees_them(tmp_path: Path):
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


def test_a_missing_base_is_named_with_where_it_was_looked_for_and_what_to_do():
    run = script_train(ARCHIVE, base="dev")
    last = run.stderr.strip().splitlines()[-1]
    assert run.returncode == 1
    assert run.stdout == "", "nothing is read before"
    for part in (
        "FLUX_BASE is dev",
        "model_index.json",
        f"{ROOT}/weights/dev",
        "black-forest-labs/FLUX.1-dev",
        "hf download",
    ):
        assert part in last


def test_train_and_check_take_a_folder_as_they_take_an_archive(tmp_path: Path):
    folder, output = tmp_path / "photos", tmp_path / "mine.tar"
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(folder / "deep")
    (folder / ".git").mkdir()
    (folder / ".git/a.png").write_bytes(b"not the person's")
    run = script_train(folder, "--steps", 3, "--resolution", 64, "--lora-rank", 2, "--output", output)
    assert "15 images, 15 with a caption: 15 from .txt files" in run.stdout, run.stderr
    assert output.is_file()
    checked = script_check(folder, "--output", tmp_path / "sheet.png")
    assert checked.stdout.startswith("15 images, 15 with a caption: 15 from .txt files"), checked.stderr


def test_a_server_does_not_take_a_folder(tmp_path: Path):
    """A client names its files, and is not to look about in the server's."""
    with pytest.raises(ValueError, match=r"^input_images is '.*', a folder: expected a zip, tar or tar.gz of images$"):
        read_archive(tmp_path, into=tmp_path / "into")


def script_check(*arguments: object) -> subprocess.CompletedProcess[str]:
    """`script/check` where no base is."""
    command = [sys.executable, "-m", "script.check", *map(str, arguments)]
    environment = {**os.environ, "FLUX_BASE": "none"}
    return subprocess.run(command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_check_shows_what_a_training_would_be_made_of(tmp_path: Path):
    """Without any base: the summary, and every image on a sheet."""
    output = tmp_path / "sheet.png"
    run = script_check(ARCHIVE, "--resolution", 64, "--autocaption-prefix", "a photo of", "--output", output)
    lines = run.stdout.splitlines()
    assert lines[1:3] == ["sizes in training", "  64x64: 15 images"], run.stderr
    assert "  a photo of TOK on a white background" in lines
    assert lines[-1] == f"wrote {output}: all images, as they are trained whole"
    with Image.open(output) as sheet:
        assert sheet.width > 1000
        assert len(sheet.convert("RGB").getcolors(2**24)) > 1000, "there are pictures on it"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nothing.zip"], "input_images is 'nothing.zip', where no file is: expected a zip"),
        ([ARCHIVE, "--resolution", "huge"], "resolution is 'huge': expected sides in pixels"),
        ([ARCHIVE, "--input-captions", "nothing.tar"], "input_captions is 'nothing.tar', where no file is"),
        ([ARCHIVE, "--output", "no/folder/sheet.png"], "--output is 'no/folder/sheet.png': expected"),
    ],
)
def test_check_refuses_in_one_sentence(arguments, sentence):
    run = script_check(*arguments)
    assert run.returncode == 1
    assert run.stderr.strip().splitlines()[-1].startswith(f"error: {sentence}"), run.stderr
    assert "Traceback" not in run.stderr


def test_train_does_not_begin_where_its_result_could_not_be_kept(tmp_path: Path):
    run = script_train(ARCHIVE, "--output", tmp_path)
    assert run.stderr.startswith(f"error: --output is {str(tmp_path)!r}: expected the name of a file")


def test_serve_refuses_a_port_that_another_server_has():
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
