"""The shift of sigma that presets train with, beside that of the pipeline's schedule."""

import pytest
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

from lora.training.recipe.sigmas import Shift
from tests.families import KLEIN

AT_1024 = 64 * 64  # tokens


@pytest.fixture(scope="module")
def scheduler():
    return FlowMatchEulerDiscreteScheduler.from_pretrained(KLEIN.folder, subfolder="scheduler")


@pytest.mark.parametrize("tokens", [16, 256, AT_1024, 8100])
def test_training_shifts_sigma_as_the_pipeline_with_200_steps_which_is_as_in_flux_1(scheduler, tokens):
    assert Shift.of(scheduler).mu(tokens) == pytest.approx(compute_empirical_mu(tokens, 200), abs=1e-4)
    assert Shift.of(scheduler) == Shift.of(FlowMatchEulerDiscreteScheduler())


def test_all_four_steps_of_distilled_klein_have_the_sigmas_that_the_presets_name(scheduler):
    scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25], mu=compute_empirical_mu(AT_1024, 4))
    assert [round(sigma, 2) for sigma in scheduler.sigmas.tolist()] == [1.0, 0.97, 0.91, 0.77, 0.0]
