"""script/untar gets the LoRA out of Cog's JSON with nothing but Python, and refuses anything else in one sentence."""

import ast
import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from lora.training.result.output import LORA_NAME
from tests.cog_client import data_uri
from tests.tiny import assert_one_sentence

COMMAND = Path(__file__).resolve().parents[1] / "script" / "untar"
SYSTEM = "/usr/bin:/bin"  # no environment of this project
LORA = b"the weights of a LoRA"


def tar_of(*names: str) -> bytes:
    """A tar with the same LoRA under each name."""
    with io.BytesIO() as file:
        with tarfile.open(fileobj=file, mode="w") as tar:
            for name in names:
                member = tarfile.TarInfo(name)
                member.size = len(LORA)
                tar.addfile(member, io.BytesIO(LORA))
        return file.getvalue()


def weights_of(*names: str) -> dict[str, str]:
    """What `cog train` writes about a tar with these names."""
    return {"weights": data_uri(tar_of(*names), media_type="application/x-tar")}


def untar(folder: Path, content: object, *arguments: str, path: str = SYSTEM) -> subprocess.CompletedProcess[str]:
    """`script/untar out.json` in a folder where out.json has this content, or is missing if that is None."""
    if content is not None:
        text = content if isinstance(content, str) else json.dumps(content, indent=2)
        (folder / "out.json").write_text(text)
    command = [str(COMMAND), "out.json", *arguments]
    return subprocess.run(command, check=False, cwd=folder, env={"PATH": path}, capture_output=True, text=True)


@pytest.mark.parametrize(
    "content",
    [
        weights_of(LORA_NAME, "output/config.yaml"),
        {"status": "succeeded", "output": weights_of(LORA_NAME), "error": None},
    ],
    ids=["of cog train", "of a server"],
)
def test_the_tar_and_its_lora_are_written_from_the_output_of_a_training(tmp_path: Path, content: object):
    run = untar(tmp_path, content)
    assert (run.stdout, run.stderr) == ("wrote trained_model.tar and trained_model.safetensors\n", "")
    assert (tmp_path / "trained_model.safetensors").read_bytes() == LORA
    with tarfile.open(tmp_path / "trained_model.tar") as tar:
        assert tar.extractfile(LORA_NAME).read() == LORA


def test_both_files_have_the_name_that_the_caller_gives(tmp_path: Path):
    run = untar(tmp_path, weights_of(LORA_NAME), "--output", "monster.tar")
    assert run.returncode == 0, run.stderr
    assert {file.name for file in tmp_path.iterdir()} == {"out.json", "monster.tar", "monster.safetensors"}


def test_no_module_of_the_callers_folder_is_imported(tmp_path: Path):
    (tmp_path / "json.py").write_text("raise SystemExit('imported')")
    assert untar(tmp_path, weights_of(LORA_NAME)).returncode == 0


CUT_OFF = data_uri(tar_of(LORA_NAME)[:700], media_type="application/x-tar")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            None,
            "out.json cannot be read (No such file or directory): expected the file that `cog train ... -o out.json`",
        ),
        ("PK\x03\x04", "out.json is not JSON, but 4 bytes of something else: expected the file that `cog train"),
        ("[" * 100_000, "out.json is not JSON, but 100,000 bytes of something else"),
        ({"weights": None}, "out.json has no output: expected the weights of a training"),
        ({"status": "succeeded", "output": None}, "out.json has no output"),
        ([], "out.json has no output"),
        (
            {"status": "failed", "error": "ValueError: steps is 0:\n\x1b[31mexpected more"},
            "out.json has the status failed (ValueError: steps is 0: [31mexpected more): expected a training that succ",
        ),
        ({"status": "canceled"}, "out.json has the status canceled: expected a training that succeeded"),
        (
            {"weights": "https://example.com/a.tar"},
            "out.json has https://example.com/a.tar as weights: expected a data URI",
        ),
        ({"weights": ["a"]}, "out.json has ['a'] as weights: expected a data URI"),
        (
            {"weights": "data:application/x-tar,abc"},
            "weights that start with data:application/x-tar: expected a data URI",
        ),
        ({"weights": "data:application/x-tar;base64,abcd!"}, "out.json has damaged weights"),
        ({"weights": data_uri(b"no tar" * 200)}, "out.json has weights that are no tar (invalid header)"),
        ({"weights": CUT_OFF}, "out.json has weights that are no tar"),
        (weights_of("output/config.yaml"), "out.json has a tar with 0 .safetensors files: expected exactly one"),
        (weights_of("a.safetensors", "b.safetensors"), "out.json has a tar with 2 .safetensors files"),
        (weights_of("../a.safetensors"), "out.json has a tar with the file '../a.safetensors': expected names inside"),
        (weights_of("/a.safetensors"), "out.json has a tar with the file '/a.safetensors': expected names inside"),
    ],
)
def test_anything_else_is_refused_in_one_sentence_and_nothing_is_written(tmp_path: Path, content, sentence):
    run = untar(tmp_path, content)
    assert (run.returncode, run.stdout) == (1, "")
    assert_one_sentence(run.stderr.removesuffix("\n"), "error: ", sentence)
    assert {file.name for file in tmp_path.iterdir()} <= {"out.json"}


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ("lora.safetensors", "error: --output is 'lora.safetensors': expected a name that ends in .tar"),
        (
            "missing/a.tar",
            "error: cannot write missing/a.tar (No such file or directory): expected a file in an existing",
        ),
    ],
)
def test_an_output_that_cannot_be_written_is_refused(tmp_path: Path, output: str, sentence: str):
    run = untar(tmp_path, weights_of(LORA_NAME), "--output", output)
    assert run.returncode == 1
    assert_one_sentence(run.stderr.removesuffix("\n"), sentence)


def test_without_python_one_sentence_says_what_to_install(tmp_path: Path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("bash", "dirname"):
        (tools / tool).symlink_to(shutil.which(tool, path=SYSTEM))
    run = untar(tmp_path, weights_of(LORA_NAME), path=str(tools))
    assert run.returncode == 1
    assert_one_sentence(
        run.stderr.removesuffix("\n"), "found neither Python 3.8 nor uv", "cog exec python -m script.untar"
    )


def test_the_syntax_is_that_of_python_3_8():
    ast.parse(COMMAND.with_suffix(".py").read_text(), feature_version=(3, 8))
