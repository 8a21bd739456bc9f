"""The image gets what .dockerignore lists, code, bases and safety checker, and needs nothing else of the checkout."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from script.docker_context import files_in_context, is_let_in, parsed
from script.openapi import openapi
from tests.project_rules import imports, modules
from weights.base_files import COMPONENTS, INDEX, MANIFEST
from weights.bases import REPOSITORIES

ROOT = Path(__file__).resolve().parents[1]
NAMED = {"LICENSE", "cog.yaml", "predict.py", "requirements.txt", "train.py"}
TINY = ("weights/tiny-flux/", "weights/tiny-flux2/", "weights/tiny-captioner/")
RUNPOD = "deploy/runpod"
SCRIPTS = ("__init__", "cog_inputs", "whole_file")  # that the worker imports

BASE = ("LICENSE.md", INDEX, MANIFEST, *(f"{each.name}/{each.config}" for each in COMPONENTS))
BASE += tuple(f"{each.name}/{each.weights}" for each in COMPONENTS if each.weights)
BASE += tuple(f"{each.name}/{name}" for each in COMPONENTS for names in each.vocabularies for name in names)
BASE += ("transformer/diffusion_pytorch_model-00001-of-00003.safetensors",)
CAPTIONER = ("config.json", "tokenizer.json", "merges.txt", "spiece.model", "chat_template.jinja", "LICENSE.md")
CAPTIONER += ("model-00001-of-00002.safetensors", "model.safetensors.index.json")
SAFETY = ("config.json", "preprocessor_config.json", "model.safetensors")
INSTALLED = {f"weights/{name}/{file}" for name in REPOSITORIES for file in BASE}
INSTALLED |= {f"weights/safety/{file}" for file in SAFETY}
INSTALLED |= {f"weights/captioner/{file}" for file in CAPTIONER}

BESIDE_A_BASE = ("flux1-dev.safetensors", "ae.safetensors", "dev_grid.jpg", "README.md", "lora/lora.safetensors")
BESIDE_A_BASE += (".cache/huggingface/x.json", "vae/.cache/x.json", "vae/.DS_Store", "vae/model.safetensors.incomplete")
LITTER = {
    *(
        ".env",
        ".env.local",
        ".netrc",
        ".cog/openapi_schema.json",
        ".venv/bin/python",
        ".idea/workspace.xml",
        "lora/.env",
    ),
    *("photos.zip", "photos.tar.gz", "photos/me.jpg", "photos/me.txt", "me.heic", "captions.csv", "lora/photos/me.jpg"),
    *("out.json", "trained_model.tar", "trained_model.safetensors", "lora.safetensors", "check.png", "image.0.webp"),
    *("output.0.webp", "output/demo.png", "output/flux_train_replicate/lora.safetensors", "checkpoints/1/state.pt"),
    *("weights/output", "weights/mine.safetensors", "weights/mine/lora.safetensors", "weights/mine/vae/config.json"),
    *(
        "weights/mine/model_index.json",
        "weights/safety/pytorch_model.bin",
        "weights/captioner/pytorch_model.bin",
        "weights/cache/mine.safetensors",
    ),
    *("lora/__pycache__/gpu.cpython-312.pyc", "lora/flux/__pycache__/x.py", "__pycache__/train.pyc", "lora/notes.md"),
    *("train.py~", "predict.py.orig", "my_train.py", "notes/train.py", ".gpu/wheels/a.whl", "wandb/run.json"),
    *(f"weights/dev/{file}" for file in BESIDE_A_BASE),
}


def tracked() -> set[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return set(filter(None, listed.split("\0")))


def is_meant(file: str) -> bool:
    """Whether a tracked file is part of the product: what either entry file can import, and the embedded models."""
    return (
        file in NAMED
        or file.startswith(TINY)
        or (file.startswith(("lora/", "weights/")) and file.endswith((".py", ".html", ".css", ".js")))
    )


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tracked files, with a person's files between them."""
    folder = tmp_path_factory.mktemp("checkout")
    for file in tracked():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, folder / file)
    for file in LITTER | INSTALLED:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("a person's")
    return folder


@pytest.fixture(scope="module")
def image(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder /src of an image that is built from that checkout."""
    folder = tmp_path_factory.mktemp("src")
    for file in files_in_context(checkout):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(checkout / file, folder / file)
    return folder


def test_only_the_code_and_the_bases_go_from_a_littered_checkout_into_the_image(checkout: Path):
    assert files_in_context(checkout) == INSTALLED | {file for file in tracked() if is_meant(file)}


def test_the_image_of_runpods_worker_has_the_worker_beside_what_cogs_image_has(checkout: Path):
    beside = files_in_context(checkout, rules=f"{RUNPOD}/Dockerfile.dockerignore") ^ files_in_context(checkout)
    worker = {file for file in tracked() if file.startswith("deploy/") and Path(file).parent.name != "space"}
    outside = {f"{RUNPOD}/{name}" for name in ("Dockerfile", "Dockerfile.dockerignore", "requirements.in", "start.sh")}
    assert beside == worker - outside | {"cog.yaml", *(f"script/{name}.py" for name in SCRIPTS)}


def test_the_dockerfile_copies_only_what_is_there_and_the_worker_imports_only_what_is_copied(checkout: Path):
    there = files_in_context(checkout, rules=f"{RUNPOD}/Dockerfile.dockerignore")
    copied = re.findall(r"^COPY (\S+) ", (ROOT / RUNPOD / "Dockerfile").read_text(), re.MULTILINE)
    assert set(copied) - {"."} <= there
    ours = [each for each in modules() if each.path in there and each.path.startswith(("deploy/", "script/"))]
    imported = {name for each in ours for name in imports(each) if name.startswith("script.")}
    assert {name.split(".")[1] for name in imported} | {"__init__"} == set(SCRIPTS)


def test_the_worker_and_the_project_require_the_same_versions():
    """pip installs both lists together. The first is what runpod needs, resolved with the second as constraints."""
    pins = [dict(line.split("==") for line in lines_of(ROOT / folder)) for folder in (RUNPOD, "")]
    assert all(pins[1].get(name, version) == version for name, version in pins[0].items())
    assert lines_of(ROOT / RUNPOD, "requirements.in") <= lines_of(ROOT / RUNPOD)
    assert {"cog", "runpod"} <= pins[0].keys()


def lines_of(folder: Path, name: str = "requirements.txt") -> set[str]:
    """The requirements in a file."""
    return {line for line in (folder / name).read_text().splitlines() if line and not line.startswith("#")}


@pytest.fixture(scope="module")
def imported(image: Path) -> list[str]:
    """What a fresh process in the image prints after it has imported both entry files, which takes seconds."""
    program = (
        "import gc, train; print(gc.isenabled(), gc.get_freeze_count(), gc.get_stats()[2]['collections']);"
        "import predict, lora, weights.bases as bases; bases.check_base(bases.find_base());"
        "print(train.__file__, predict.__file__, lora.__path__[0])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = subprocess.run(
        [sys.executable, "-c", program],
        check=False,
        cwd=image,
        env={**environment, "FLUX_BASE": "tiny", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_both_entry_files_can_be_imported_in_the_image_and_find_the_base(image: Path, imported: list[str]):
    assert imported[1].split() == [str(image / name) for name in ("train.py", "predict.py", "lora")]


def test_imports_are_not_slowed_down_by_garbage_collections_which_skip_them_afterwards(imported: list[str]):
    enabled, frozen, full_collections = imported[0].split()
    assert enabled == "True"
    assert int(frozen) > 100_000
    assert int(full_collections) <= 1, "of the few imports before"


def test_the_schema_can_be_made_of_what_is_in_the_image(image: Path):
    assert openapi(image) == openapi(ROOT)


@pytest.mark.parametrize(
    ("text", "let_in"),
    [
        ("# nothing\n\n", {"a.py", "b/a.py", "b/c/a.py", "b/c/d.txt"}),
        ("*\n!b", {"b/a.py", "b/c/a.py", "b/c/d.txt"}),
        ("*\n!b/*.py", {"b/a.py"}),
        ("*\n!/b/**/*.py", {"b/a.py", "b/c/a.py"}),
        ("*.py", {"b/a.py", "b/c/a.py", "b/c/d.txt"}),
        ("**/*.py", {"b/c/d.txt"}),
        ("b/**\n!b/c/", {"a.py", "b/c/a.py", "b/c/d.txt"}),
        ("!b\nb", {"a.py"}),
        ("*\n!b/**/*.py\n**/c", {"b/a.py", "b/c/a.py"}),
        ("*\n!b/**/*.py\n**/c/**", {"b/a.py"}),
        ("b/?/[a-c].*", {"a.py", "b/a.py", "b/c/d.txt"}),
    ],
)
def test_the_rules_are_those_of_docker(text: str, let_in: set[str]):
    files = {"a.py", "b/a.py", "b/c/a.py", "b/c/d.txt"}
    assert {file for file in files if is_let_in(file, parsed(text))} == let_in
