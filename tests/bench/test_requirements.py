"""Every arm of ours that a run on a GPU machine measures is compared with a prediction."""

import pytest

from bench import gpu_run
from bench.gpu_steps import StepStages
from bench.random_flux import DEV
from bench.requirements import predicted_bytes
from bench.step_arms import ARMS

GB = 1e9
BY_NAME = {arm.name: arm for arm in ARMS}
MEASURED = [
    BY_NAME[stage.name]
    for stage in StepStages(DEV, gpu_run.full("dev").steps, profiled_steps=1).stages()
    if stage.name in BY_NAME
]


@pytest.mark.parametrize("arm", MEASURED, ids=lambda arm: arm.name)
def test_each_measured_arm_of_ours_has_a_predicted_peak_and_the_script_has_none(arm):
    peaks = [predicted_bytes(arm, DEV, side=side, batch_size=1) for side in (512, 1024)]
    if not arm.is_ours:
        assert peaks == [None, None]
    else:
        small, large = peaks
        assert 3 * GB < small < large < 60 * GB


def test_recomputing_and_fewer_bits_need_less_memory():
    order = ("ours bf16", "ours bf16, recomputing", "ours nf4, recomputing")
    peaks = [predicted_bytes(BY_NAME[name], DEV, side=1024, batch_size=1) for name in order]
    assert peaks == sorted(peaks, reverse=True)
