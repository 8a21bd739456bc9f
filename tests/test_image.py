"""`script/image` gives Cog what goes into the image and nothing else; what `script/*` installs is no weight for Cog."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from script.docker_context import FILE, files_in_context
from script.image import STAGED, bases, staged
from tests.tiny import assert_one_sentence

ROOT = Path(__file__).resolve().parents[1]
LARGE = 10 * 2**20  # of which size Cog takes a file for a weight: sizeThreshold in pkg/weightslegacy/weights.go
FILES = ("script/image", "script/image.py", "script/docker_context.py", "script/__init__.py", "script/python")
FILES += (FILE, "cog.yaml", "train.py", "lora/gpu.py", "weights/cache/store.py")
LITTER = ("photos.zip", "out.json", "checkpoints/1/state.safetensors", "weights/mine.safetensors", "photos/me.JPG")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A few files of the project, a base, and large files of a person between them."""
    root = tmp_path / "flux-lora"
    for file in FILES:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, root / file)
    for file in (*LITTER, "weights/tiny-flux/transformer/model.safetensors"):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
        os.truncate(root / file, LARGE)
    return root


def commanded(checkout: Path, name: str, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run script/NAME of the checkout; `program` is shell code for the uv and the cog that it finds."""
    tools = checkout.parent / "tools"
    tools.mkdir(exist_ok=True)
    (tools / "python3").unlink(missing_ok=True)
    (tools / "python3").symlink_to(sys.executable)
    for tool in ("uv", "cog"):
        (tools / tool).write_text(f"#!/bin/sh\n{program}\n")
        (tools / tool).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
    command = [str(checkout / "script" / name), *arguments]
    return subprocess.run(command, check=False, cwd=checkout.parent, env=environment, capture_output=True, text=True)


def test_cog_gets_links_to_what_goes_into_the_image_and_only_for_as_long_as_it_runs(checkout: Path):
    with staged(checkout) as folder:
        files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert files == files_in_context(checkout) | {FILE}
        assert not files & set(LITTER)
        assert all((folder / file).samefile(checkout / file) for file in files)
        assert folder.name == checkout.name
        assert bases(folder) == {"weights/tiny-flux": LARGE}
    assert not (checkout / STAGED).exists()


def test_weights_behind_a_link_are_in_it(checkout: Path, tmp_path: Path):
    shutil.move(checkout / "weights/tiny-flux", tmp_path / "elsewhere")
    (checkout / "weights/tiny-flux").symlink_to(tmp_path / "elsewhere")
    with staged(checkout) as folder:
        weights = folder / "weights/tiny-flux/transformer/model.safetensors"
        assert weights.stat().st_size == LARGE
        assert not weights.is_symlink()


def test_each_folder_of_weights_can_be_a_layer_of_its_own():
    """Cog refuses one if the path of a code file only begins with its path: `filterDirsContainingCode`."""
    lines = [line.removeprefix("!") for line in (ROOT / FILE).read_text().splitlines() if line.startswith("!weights/")]
    code = [file for file in files_in_context(ROOT) if file.endswith(".py")]
    folders = {line.rpartition("/")[0] for line in lines if not line.endswith(".py")} - {"weights"}
    assert {"weights/dev", "weights/safety"} < folders
    assert [file for file in code if file.startswith(tuple(folders))] == []


def test_script_image_runs_cog_with_separate_weights_there_and_returns_its_exit_code(checkout: Path):
    run = commanded(checkout, "image", 'echo "$PWD: $*"; ls; exit 3', "push", "r8.im/you/model", "--no-cache")
    assert run.returncode == 3
    base, command, *files = run.stdout.splitlines()
    assert base == "weights/tiny-flux: 0.01 GB"
    assert command == f"{checkout}/.cog/image/flux-lora: push --separate-weights r8.im/you/model --no-cache"
    assert files == ["cog.yaml", "lora", "train.py", "weights"]


def test_a_folder_that_cannot_be_made_is_one_sentence(checkout: Path):
    (checkout / ".cog").touch()  # in place of the folder
    run = commanded(checkout, "image", "exit 0", "build")
    assert run.returncode == 1
    assert_one_sentence(run.stderr.strip(), "error: ", ".cog/image")


@pytest.mark.parametrize("before", ["nothing", "a folder", "a link to nothing", "a link to elsewhere", "a loop"])
def test_the_environment_lies_in_the_only_folder_that_cog_does_not_search_for_weights(checkout: Path, before: str):
    """`prefixesToIgnore` there. An environment of an earlier version of the project is moved, not installed again."""
    environment, python = checkout / ".venv", "bin/python"
    if before == "a folder":
        (environment / "lib").mkdir(parents=True)
    elif before != "nothing":
        environment.symlink_to("/nowhere/venv" if before == "a link to elsewhere" else ".cog/venv")
    if before == "a loop":  # which two processes made that moved the same folder
        (checkout / ".cog").mkdir()
        (checkout / ".cog/venv").symlink_to(".cog/venv")
    install = f"cd {checkout} && mkdir -p .venv/bin && ln -sf /bin/echo .venv/{python}"  # as `uv sync` does
    for _ in range(2):
        run = commanded(checkout, "python", install, "-m", "script.check")
        assert (run.stdout, run.returncode) == ("-m script.check\n", 0), run.stderr
    assert (checkout / ".cog/venv" / python).exists()
    assert environment.is_symlink()
    assert (environment / "lib").exists() is (before == "a folder")
