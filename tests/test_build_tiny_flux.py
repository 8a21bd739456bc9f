"""The build of the embedded base gives the same pipeline in any number of runs."""

import filecmp
import pickle
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline

from script.tiny_flux.autoencoder import AutoencoderSettings
from script.tiny_flux.autoencoder_pool import Crops
from script.tiny_flux.build import Build
from script.tiny_flux.build_run import RunOverError, TimedRun
from script.tiny_flux.courses import Course, Courses
from script.tiny_flux.pictures import Size
from script.tiny_flux.plan import Plan
from script.tiny_flux.rehearsal import Practice
from script.tiny_flux.state import OtherSettingsError, StageState, StateFolder
from script.tiny_flux.tokenizers import TEXT_TOKENS
from script.tiny_flux.transformer import Term

PRACTICE = Practice(lesson=(2, 3), pace=1, rest=0.3)
PLAN = Plan(
    seed=0,
    autoencoder=AutoencoderSettings(widths=(8, 8, 8, 8), steps=3, rate=1e-3, pool=8, crops=(Crops(32, 2),), seed=0),
    courses=Courses(
        small=Course(Size(32, 32), pictures=6, batch=2),
        full=Course(Size(32, 32), pictures=6, batch=4, practised=2),
        wide=Course(Size(48, 32), pictures=4, batch=2),
        tall=Course(Size(32, 48), pictures=4, batch=2),
    ),
    terms=(
        Term(steps=2, rate=1.0, decay=0.0, small=0.5, practice=None, seed=1),
        Term(steps=3, rate=0.8, decay=0.5, small=0.0, practice=PRACTICE, seed=2),
    ),
    distillation=Term(steps=3, rate=0.3, decay=0.5, small=0.0, practice=PRACTICE, seed=3),
    measured=1,
    is_compiled=False,
)


@dataclass
class CountedRun:
    """A run that is over after some steps or files of images."""

    left: int

    def is_over(self) -> bool:
        self.left -= 1
        return self.left <= 0


def build(into: Path, *, state: Path, steps: int, plan: Plan = PLAN) -> int:
    """Build in runs of `steps` steps, and return the number of runs."""
    for number in range(1, 50):
        builder = Build(plan, folder=StateFolder(state), run=CountedRun(steps), device=torch.device("cpu"))
        try:
            builder.run(into=into)
        except RunOverError:
            continue
        return number
    raise AssertionError("the build does not end")


@pytest.fixture(scope="module")
def built_in_one_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    into = tmp_path_factory.mktemp("built")
    assert build(into, state=tmp_path_factory.mktemp("state"), steps=100) == 1
    return into


def test_a_build_in_several_runs_gives_the_same_bytes(built_in_one_run, tmp_path):
    assert build(tmp_path / "base", state=tmp_path / "state", steps=4) > 3
    names = [path.relative_to(built_in_one_run) for path in built_in_one_run.rglob("*") if path.is_file()]
    same, different, missing = filecmp.cmpfiles(built_in_one_run, tmp_path / "base", names, shallow=False)
    assert (different, missing) == ([], [])
    assert len(same) == len(names) > 10


def test_stock_diffusers_loads_the_built_base_and_generates_with_it(built_in_one_run):
    pipeline = FluxPipeline.from_pretrained(built_in_one_run, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline(
        "a red star in a meadow", width=32, height=32, num_inference_steps=1, max_sequence_length=TEXT_TOKENS
    ).images[0]
    assert image.size == (32, 32)
    assert pipeline.tokenizer_2.model_max_length == TEXT_TOKENS
    assert pipeline.transformer.config.guidance_embeds


def test_a_state_of_other_settings_is_refused(tmp_path):
    folder = StateFolder(tmp_path)
    folder.save("autoencoder", PLAN.autoencoder, StageState(1, {}))
    with pytest.raises(OtherSettingsError, match="--state"):
        folder.load("autoencoder", replace(PLAN.autoencoder, steps=4))


def test_a_failed_save_keeps_the_state_before_it(tmp_path):
    folder = StateFolder(tmp_path)
    folder.save("stage", "settings", StageState(1, {"weight": torch.ones(3)}))
    with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
        folder.save("stage", "settings", StageState(2, {"weight": lambda: None}))
    state = folder.load("stage", "settings")
    assert state.step == 1
    assert torch.equal(state.trainer["weight"], torch.ones(3))


def test_a_run_ends_after_its_minutes():
    assert TimedRun(0).is_over()
    assert not TimedRun(1).is_over()
    assert not TimedRun(None).is_over()
