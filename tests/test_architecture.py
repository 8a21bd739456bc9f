"""The project follows its rules, and each rule finds what breaks it."""

import pytest

from script.openapi import openapi
from tests.project_rules import (
    LORA_PACKAGES,
    ROOT,
    complaints,
    errors_are_caught_by_their_names,
    families_are_asked_through_their_record,
    files_are_short,
    files_say_what_they_are_for,
    functions_are_short,
    imports_run_one_way,
    modules,
    nothing_is_declared_global,
    only_progress_prints,
    parse,
    public_names_are_explained,
    sys_path_is_not_changed,
)


def test_every_package_is_checked():
    packages = {"weights.grammar", "weights.network", "weights.sources", "weights.cache", *LORA_PACKAGES}
    assert {"train", "predict", "weights", "script.openapi"} | packages <= {m.name for m in modules()}


def test_imports_run_one_way_and_only_the_entry_files_know_cog():
    assert complaints(imports_run_one_way) == []


def test_no_file_is_too_long():
    assert complaints(files_are_short) == []


def test_no_function_is_too_long():
    assert complaints(functions_are_short) == []


def test_every_file_says_what_it_is_for():
    assert complaints(files_say_what_they_are_for) == []


def test_every_public_name_is_explained():
    assert complaints(public_names_are_explained) == []


def test_no_error_is_caught_without_its_name():
    assert complaints(errors_are_caught_by_their_names) == []


def test_the_import_path_is_left_alone():
    assert complaints(sys_path_is_not_changed) == []


def test_nothing_is_declared_global():
    assert complaints(nothing_is_declared_global) == []


def test_only_the_registry_knows_the_families():
    assert complaints(families_are_asked_through_their_record) == []


def test_the_libraries_do_not_print():
    assert complaints(only_progress_prints) == []


def test_cog_can_read_every_input_without_running_it():
    openapi(ROOT)


def function_of(lines: int, *, name: str = "f") -> str:
    return f"def {name}(\n    a: int,\n) -> None:\n" + "    a += 1\n" * (lines - 3)


BAD = [
    (imports_run_one_way, "lora/flux/a.py", "import lora.dataset.reading"),
    (imports_run_one_way, "lora/flux/a.py", "from lora import training"),
    (imports_run_one_way, "lora/flux/a.py", "def f():\n    from lora.serving.generation import generate"),
    (imports_run_one_way, "lora/flux/a.py", "from ..serving import drawing"),
    (imports_run_one_way, "lora/flux/a.py", "from .. import dataset"),
    (imports_run_one_way, "lora/flux/__init__.py", "from ..dataset import reading"),
    (imports_run_one_way, "lora/dataset/a.py", "from lora.training.recipe.config import TrainConfig"),
    (imports_run_one_way, "lora/dataset/a.py", "import lora.serving"),
    (imports_run_one_way, "lora/training/a.py", "from lora.serving.generation import generate"),
    (imports_run_one_way, "lora/serving/a.py", "from lora.training.recipe.config import TrainConfig"),
    (imports_run_one_way, "lora/serving/a.py", "from lora.dataset import sizes as s"),
    (imports_run_one_way, "lora/engine/a.py", "from lora.families.frozen_transformer import load_transformer"),
    (imports_run_one_way, "lora/engine/a.py", "from lora.formats.shapes import Shape"),
    (imports_run_one_way, "lora/base/a.py", "from lora.families.registry import family_of"),
    (imports_run_one_way, "lora/flux/a.py", "from lora.families.registry import family_of"),
    (families_are_asked_through_their_record, "lora/engine/a.py", "from diffusers import FluxTransformer2DModel"),
    (families_are_asked_through_their_record, "lora/training/a.py", "from lora.flux.latents import PATCH"),
    (families_are_asked_through_their_record, "lora/serving/a.py", "from diffusers import FluxPipeline"),
    (families_are_asked_through_their_record, "lora/families/loading.py", "import lora.flux.components"),
    (families_are_asked_through_their_record, "lora/base/a.py", "def f():\n    from lora.flux import latents"),
    (imports_run_one_way, "lora/formats/a.py", "from lora.engine.linears import HostLinear"),
    (imports_run_one_way, "lora/formats/a.py", "from lora.flux.prompt import Prompt"),
    (imports_run_one_way, "lora/formats/a.py", "from diffusers import FluxPipeline"),
    (imports_run_one_way, "lora/images/a.py", "from lora.dataset import crops"),
    (imports_run_one_way, "lora/flux/a.py", "from lora.images.size import Size"),
    (imports_run_one_way, "lora/checks.py", "from lora.flux import prompt"),
    (imports_run_one_way, "lora/__init__.py", "from lora.serving import generation"),
    (imports_run_one_way, "lora/__init__.py", "from . import training"),
    (
        imports_run_one_way,
        "lora/training/recipe/a.py",
        "from lora.training.learning.flow_matching import flow_matching_losses",
    ),
    (imports_run_one_way, "lora/training/learning/a.py", "from lora.training.runs.attempt import Job"),
    (imports_run_one_way, "lora/training/runs/a.py", "from lora.training.result import output"),
    (imports_run_one_way, "lora/training/memory/a.py", "from lora.training.checkpoints.store import CheckpointStore"),
    (imports_run_one_way, "lora/training/stop.py", "from lora.training.recipe.config import TrainConfig"),
    (imports_run_one_way, "lora/training/a.py", "from cog import Path"),
    (imports_run_one_way, "lora/training/a.py", "import cog.types"),
    (imports_run_one_way, "lora/training/a.py", "from weights.bases import find_base"),
    (imports_run_one_way, "lora/training/a.py", "import train"),
    (imports_run_one_way, "lora/serving/a.py", "import predict"),
    (imports_run_one_way, "lora/workspace.py", "from script.openapi import openapi"),
    (imports_run_one_way, "weights/a.py", "from lora.checks import check_text"),
    (imports_run_one_way, "weights/a.py", "import lora"),
    (imports_run_one_way, "weights/a.py", "import cog"),
    (imports_run_one_way, "weights/a.py", "import script.openapi"),
    (imports_run_one_way, "weights/grammar/a.py", "from weights.network.network import Network"),
    (imports_run_one_way, "weights/grammar/a.py", "import socket"),
    (imports_run_one_way, "weights/network/a.py", "from weights.sources.hub import find_on_hub"),
    (imports_run_one_way, "weights/sources/a.py", "from weights.cache.store import Store"),
    (imports_run_one_way, "weights/cache/a.py", "from weights.network.network import Tokens"),
    (imports_run_one_way, "script/a.py", "from cog import Path"),
    (imports_run_one_way, "predict.py", "from deploy.runpod.inputs import Form"),
    (imports_run_one_way, "lora/a.py", "import deploy.runpod.inputs"),
    (imports_run_one_way, "weights/a.py", "import deploy.runpod.inputs"),
    (imports_run_one_way, "script/a.py", "import deploy.runpod.inputs"),
    (imports_run_one_way, "deploy/runpod/jobs.py", "import runpod"),
    (imports_run_one_way, "bench/a.py", "import cog"),
    (imports_run_one_way, "predict.py", "from lora.training.recipe.config import TrainConfig"),
    (imports_run_one_way, "predict.py", "from lora import dataset"),
    (imports_run_one_way, "predict.py", "import train"),
    (imports_run_one_way, "train.py", "import predict"),
    (files_are_short, "train.py", "a = 1\n" * 301),
    (functions_are_short, "lora/a.py", function_of(41)),
    (functions_are_short, "lora/a.py", "async " + function_of(41)),
    (functions_are_short, "lora/a.py", function_of(41, name="train")),
    (functions_are_short, "predict.py", function_of(41, name="train")),
    (functions_are_short, "train.py", function_of(49, name="train")),
    (files_say_what_they_are_for, "lora/a.py", "import os"),
    (files_say_what_they_are_for, "lora/a.py", ""),
    (files_say_what_they_are_for, "lora/a.py", '"""\nToo late.\n"""'),
    (public_names_are_explained, "lora/a.py", "def f():\n    pass"),
    (public_names_are_explained, "weights/a.py", "async def f():\n    pass"),
    (public_names_are_explained, "lora/a.py", "class A:\n    pass"),
    (public_names_are_explained, "lora/a.py", 'class A:\n    """An A."""\n    def f(self):\n        pass'),
    (errors_are_caught_by_their_names, "lora/a.py", "try:\n    f()\nexcept:\n    pass"),
    (errors_are_caught_by_their_names, "lora/a.py", "try:\n    f()\nexcept Exception:\n    pass"),
    (
        errors_are_caught_by_their_names,
        "lora/a.py",
        "try:\n    f()\nexcept (OSError, BaseException) as error:\n    raise",
    ),
    (errors_are_caught_by_their_names, "lora/a.py", "with contextlib.suppress(Exception):\n    f()"),
    (sys_path_is_not_changed, "script/a.py", "import sys\nsys.path.insert(0, '.')"),
    (sys_path_is_not_changed, "script/a.py", "from sys import path"),
    (nothing_is_declared_global, "predict.py", "def f():\n    global a\n    a = 1"),
    (only_progress_prints, "lora/training/loop.py", "print(1)"),
    (only_progress_prints, "weights/a.py", "def f():\n    builtins.print(1)"),
]
GOOD = [
    (families_are_asked_through_their_record, "lora/families/registry.py", "from lora.flux.family import FLUX1"),
    (families_are_asked_through_their_record, "lora/flux/a.py", "from lora.flux.latents import a"),
    (families_are_asked_through_their_record, "bench/a.py", "from lora.flux.latents import PATCH"),
    (
        imports_run_one_way,
        "train.py",
        "from cog import Path\nfrom lora.training.stages import a\nimport weights.bases",
    ),
    (
        imports_run_one_way,
        "predict.py",
        "from cog import Path\nfrom lora.serving.generation import generate\nimport weights",
    ),
    (imports_run_one_way, "lora/training/a.py", "from lora.dataset.reading import a\nfrom lora.flux import b"),
    (imports_run_one_way, "lora/training/a.py", "from . import loop\nfrom ..flux import b\nimport cogwheel"),
    (imports_run_one_way, "lora/serving/a.py", "from lora.flux.prompt import a\nfrom lora.checks import check_text"),
    (imports_run_one_way, "lora/flux/a.py", "from lora.engine.linears import a\nfrom diffusers import FluxPipeline"),
    (imports_run_one_way, "lora/engine/a.py", "from diffusers import ModelMixin"),
    (imports_run_one_way, "lora/workspace.py", "from lora.checks import check_text\nimport lora"),
    (imports_run_one_way, "script/a.py", "import lora.training.learning.loop\nimport weights.bases\nimport train"),
    (
        imports_run_one_way,
        "deploy/runpod/handler.py",
        "import runpod\nfrom script.cog_inputs import CogInput\nimport predict",
    ),
    (imports_run_one_way, "deploy/runpod/jobs.py", "from deploy.runpod.answers import Answer"),
    (files_are_short, "train.py", "a = 1\n" * 300),
    (functions_are_short, "lora/a.py", function_of(40)),
    (functions_are_short, "train.py", function_of(48, name="train")),
    (functions_are_short, "predict.py", function_of(48, name="run")),
    (public_names_are_explained, "lora/a.py", "def _f():\n    pass\nclass _A:\n    def f(self):\n        pass"),
    (public_names_are_explained, "script/a.py", "def f():\n    pass"),
    (errors_are_caught_by_their_names, "lora/a.py", "try:\n    f()\nexcept (OSError, ValueError):\n    pass"),
    (only_progress_prints, "lora/training/progress.py", "print(1)"),
    (only_progress_prints, "script/a.py", "print(1)"),
]


@pytest.mark.parametrize(("rule", "path", "text"), BAD)
def test_each_rule_sees_what_breaks_it(rule, path, text):
    assert list(rule(parse(path, text)))


@pytest.mark.parametrize(("rule", "path", "text"), GOOD)
def test_each_rule_accepts_valid_code(rule, path, text):
    assert not list(rule(parse(path, text)))
