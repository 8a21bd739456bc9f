"""The build of each embedded base gives the same pipeline in any number of runs."""

import filecmp
import json
import pickle
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline

from script.tiny_flux.autoencoder import AutoencoderSettings
from script.tiny_flux.autoencoder_pool import Crops
from script.tiny_flux.bases import FLUX1, KLEIN, Base
from script.tiny_flux.build import Build
from script.tiny_flux.build_run import RunOverError, TimedRun
from script.tiny_flux.courses import Course, Courses
from script.tiny_flux.pictures import Size
from script.tiny_flux.plan import Plan
from script.tiny_flux.rehearsal import Practice
from script.tiny_flux.state import OtherSettingsError, StageState, StateFolder
from script.tiny_flux.transformer import Term
from weights.bases import WEIGHTS

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
KLEIN_PLAN = replace(
    PLAN,
    autoencoder=replace(PLAN.autoencoder, widths=(32, 64, 96, 96)),  # those of tiny-flux, from which it starts
    distillation=None,
)
SMALL = {"tiny-flux": Base(FLUX1, PLAN), "tiny-flux2": Base(KLEIN, KLEIN_PLAN)}


@dataclass
class CountedRun:
    """A run that is over after some steps or files of images."""

    left: int

    def is_over(self) -> bool:
        self.left -= 1
        return self.left <= 0


def build(into: Path, *, base: Base, state: Path, steps: int) -> int:
    """Build in runs of `steps` steps, and return the number of runs."""
    for number in range(1, 50):
        builder = Build(base, folder=StateFolder(state), run=CountedRun(steps), device=torch.device("cpu"))
        try:
            builder.run(into=into)
        except RunOverError:
            continue
        return number
    raise AssertionError("the build does not end")


@dataclass(frozen=True)
class Built:
    """A small base that was built in one run."""

    base: Base
    path: Path


@pytest.fixture(scope="module", params=SMALL)
def built_in_one_run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    base, into = SMALL[request.param], tmp_path_factory.mktemp("built")
    assert build(into, base=base, state=tmp_path_factory.mktemp("state"), steps=100) == 1
    return Built(base, into)


def test_a_build_in_several_runs_gives_the_same_bytes(built_in_one_run, tmp_path):
    assert build(tmp_path / "base", base=built_in_one_run.base, state=tmp_path / "state", steps=4) > 2
    whole = built_in_one_run.path
    names = [path.relative_to(whole) for path in whole.rglob("*") if path.is_file()]
    same, different, missing = filecmp.cmpfiles(whole, tmp_path / "base", names, shallow=False)
    assert (different, missing) == ([], [])
    assert len(same) == len(names) > 10


def test_stock_diffusers_loads_the_built_base_and_generates_with_it(built_in_one_run):
    pipeline = DiffusionPipeline.from_pretrained(built_in_one_run.path, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline(
        prompt="a red star in a meadow", width=32, height=32, num_inference_steps=1, max_sequence_length=32
    ).images[0]
    assert image.size == (32, 32)


def test_a_built_base_has_the_configurations_of_the_committed_one(built_in_one_run):
    """But for what is measured, the statistics of the latents of FLUX.1's VAE, and the size of this test's VAE."""
    differences = ("scaling_factor", "shift_factor", "block_out_channels")
    name = next(name for name, base in SMALL.items() if base == built_in_one_run.base)
    for path in built_in_one_run.path.rglob("*.json"):
        built, committed = (
            json.loads((folder / path.relative_to(built_in_one_run.path)).read_text())
            for folder in (built_in_one_run.path, WEIGHTS / name)
        )
        if path.name == "config.json":
            built, committed = ({k: v for k, v in each.items() if k not in differences} for each in (built, committed))
        assert built == committed, path.name


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
