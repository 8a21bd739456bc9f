"""The training stages of the run on a GPU machine: an arm that fails leaves no model behind for the next one."""

import gc
from dataclasses import asdict, replace

import pytest
from accelerate.state import AcceleratorState
from diffusers import FluxTransformer2DModel

from bench.gpu_steps import OURS, PRESERVATION, STEP, StepStages
from bench.gpu_table import as_markdown
from bench.random_flux import tiny_sizes
from bench.records import Record
from bench.step_arms import BASELINE, PRESERVING, set_up_training
from bench.train_step import Measurement, inputs_of, small_extent


@pytest.fixture(autouse=True)
def reset_accelerate():
    """Accelerate stores its precision in the process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def models() -> int:
    gc.collect()
    return sum(type(each) is FluxTransformer2DModel for each in gc.get_objects())


def arm_stage(stages: StepStages, name: str):
    return next(stage for stage in stages.stages() if stage.name == name)


def test_a_complete_arm_keeps_its_model_for_the_next_and_a_failed_one_frees_it():
    before = models()
    complete = StepStages(tiny_sizes(), small_extent(batch_size=1), profiled_steps=1)
    list(arm_stage(complete, OURS).measure())
    assert models() == before + 1
    complete.release()
    assert models() == before
    odd = replace(small_extent(batch_size=1), sides=(24,))  # three latents, which are no whole number of tokens
    failing = StepStages(tiny_sizes(), odd, profiled_steps=1)
    with pytest.raises(RuntimeError):
        list(arm_stage(failing, OURS).measure())
    assert models() == before


def test_the_usual_loop_and_our_first_arm_are_sure_of_their_time():
    stages = StepStages(tiny_sizes(), small_extent(batch_size=1), profiled_steps=1).stages()
    assert {stage.name for stage in stages if stage.is_essential} == {"reference in fp32", OURS, BASELINE.name}


def test_the_preserving_arm_measures_steps_that_preserve_and_the_images_for_them():
    stages = StepStages(tiny_sizes(), small_extent(batch_size=1), profiled_steps=1)
    results = {each.kind: each.values for each in arm_stage(stages, PRESERVING.name).measure()}
    assert results[PRESERVATION].pop("seconds") > 0
    assert results[PRESERVATION] == {"share": 0.25, "images": 1}
    stages.release()


@pytest.mark.parametrize("base", ["dev", "klein-4B"])
def test_each_step_of_the_preserving_loop_has_a_preservation_loss(base):
    sizes = tiny_sizes(base)
    setup = set_up_training(PRESERVING, sizes)
    setup.begin(inputs_of(sizes, small_extent(batch_size=1), side=64))
    losses = [setup.loop._take_step().preservation_loss for _ in range(2)]
    assert all(loss is not None and loss > 0 for loss in losses)


def test_the_average_step_of_a_subject_is_computed_from_plain_and_preserving_steps():
    plain, preserving = (
        Measurement(arm, 512, 2.0, 20.0, [9.0], seconds, 0, None, None, None)
        for arm, seconds in ((OURS, [0.1, 0.1, 0.9]), (PRESERVING.name, [0.24, 0.2, 0.26]))
    )
    steps = [Record(each.arm, STEP, {"measurement": asdict(each), "predicted": None}) for each in (plain, preserving)]
    images = Record(PRESERVING.name, PRESERVATION, {"share": 0.25, "images": 16, "seconds": 12.34})
    table = as_markdown([*steps, images])
    assert "| px | plain step | preserving step | average, 25% preserving | times a plain step |" in table
    assert "| 512 | 100 ms | 240 ms | 135 ms | 1.35 |" in table
    assert "16 neutral images, when compiled: 12.3 s" in table
    assert "neutral images" not in as_markdown(steps)
