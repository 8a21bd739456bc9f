"""The training stages of the run on a GPU machine: an arm that fails leaves no model behind for the next one."""

import gc
from dataclasses import replace

import pytest
from accelerate.state import AcceleratorState
from diffusers import FluxTransformer2DModel

from bench.gpu_steps import OURS, StepStages
from bench.random_flux import tiny_sizes
from bench.step_arms import BASELINE
from bench.train_step import small_extent


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
