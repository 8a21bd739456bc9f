"""The noise levels that are trained, compared with the scheduler of diffusers."""

import math

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from lora.training.recipe.sigmas import SMALLEST_SIGMA, STYLE_LOGIT_MEAN, Shift, SigmaRule
from tests.tiny import SHIFT, TINY_FLUX

SIZES = [(64, 64), (512, 512), (768, 512), (1024, 1024), (1344, 768)]


def normal_cdf(x):
    return 0.5 * (1 + math.erf(x / math.sqrt(2)))


def sigmas_at(mu):
    return sample_sigmas(SigmaRule(None, 1.0, 0.0), mu=mu)


def sample_sigmas(rule, *, mu=0.0, count=100_000):
    return rule.sample(count, mu=mu, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_shift_counts_packed_tokens(width, height):
    """Trap 1."""
    tokens = (height // 16) * (width // 16)
    assert SHIFT.mu(tokens) == pytest.approx(calculate_shift(tokens, 256, 4096, 0.5, 1.15), abs=1e-12)


def test_the_shift_of_a_square_megapixel_is_3_158():
    """Trap 1."""
    assert math.exp(SHIFT.mu(4096)) == pytest.approx(3.1582, abs=1e-4)


def test_the_shift_is_read_from_the_base():
    """Trap 2."""
    assert Shift.of(FlowMatchEulerDiscreteScheduler.from_pretrained(TINY_FLUX, subfolder="scheduler")) == SHIFT


@pytest.mark.parametrize("mu", [0.5, 0.8, 1.15])
def test_sigmas_are_the_logit_normal_around_mu(mu):
    """Trap 3."""
    sigmas = sigmas_at(mu)
    assert sigmas.median().item() == pytest.approx(1 / (1 + math.exp(-mu)), abs=0.005)
    above = (sigmas > 0.9).float().mean().item()
    assert above == pytest.approx(1 - normal_cdf(math.log(9) - mu), abs=0.005)


def test_adding_mu_is_the_schedulers_own_shift():
    """Traps 3, 4: compared with its function `time_shift`, as its table of sigmas is not shifted."""
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(TINY_FLUX, subfolder="scheduler")
    normal = torch.randn(1000, dtype=torch.float64)
    shifted = scheduler.time_shift(1.15, 1.0, torch.sigmoid(normal))
    assert torch.allclose(torch.sigmoid(normal + 1.15), shifted, atol=1e-12)


def test_sigmas_are_fp32_and_stay_off_both_ends():
    """Trap 7."""
    sigmas = sigmas_at(12.0)
    assert sigmas.dtype == torch.float32
    assert sigmas.max() <= 1 - SMALLEST_SIGMA + 1e-7
    assert sigmas_at(-12.0).min() >= SMALLEST_SIGMA


def test_there_are_far_more_distinct_sigmas_than_in_bf16():
    """Trap 7."""
    assert sigmas_at(1.15).unique().numel() > 50_000


def test_each_sample_has_its_own_sigma():
    """Trap 17."""
    assert sample_sigmas(SigmaRule(None, 1.0, 0.0), count=4).unique().numel() == 4


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (1.5, 0.5)])
def test_a_given_mean_and_spread_replace_the_shift(mean, std):
    """Recipe 1.2: with 0 and 1 it is the sampler of ostris/flux-dev-lora-trainer, P(sigma > 0.9) = 0.014."""
    sigmas = sample_sigmas(SigmaRule(mean, std, 0.0), mu=5.0)
    logits = torch.logit(sigmas)
    assert logits.mean().item() == pytest.approx(mean, abs=0.02)
    assert logits.std().item() == pytest.approx(std, abs=0.02)
    above = (sigmas > 0.9).float().mean().item()
    assert above == pytest.approx(1 - normal_cdf((math.log(9) - mean) / std), abs=0.005)


def test_the_mixture_draws_its_share_around_the_style_mean():
    sigmas = sample_sigmas(SigmaRule(None, 1.0, 0.65), mu=0.63)
    above = (sigmas > 0.9).float().mean().item()
    tails = [1 - normal_cdf(math.log(9) - mean) for mean in (STYLE_LOGIT_MEAN, 0.63)]
    assert above == pytest.approx(0.65 * tails[0] + 0.35 * tails[1], abs=0.006)
