"""The path from an image to its noise: checked by its identities."""

import pytest
import torch

from lora.training.learning.flow_matching import add_noise, flow_matching_losses, velocity_target


def test_each_sample_moves_by_its_own_sigma():
    """Trap 17: broadcast over the batch, not over the width."""
    clean, noise = torch.randn(4, 2, 4, 4), torch.randn(4, 2, 4, 4)
    sigmas = torch.tensor([0.1, 0.4, 0.7, 0.95])
    together = add_noise(clean, noise, sigmas)
    for index, sigma in enumerate(sigmas):
        assert torch.equal(together[index], (1 - sigma) * clean[index] + sigma * noise[index])


def test_velocity_is_the_derivative_of_the_path():
    """Trap 9."""
    clean, noise = torch.randn(2, 4, 6, 8, dtype=torch.float64), torch.randn(2, 4, 6, 8, dtype=torch.float64)
    sigmas, step = torch.tensor([0.3, 0.8], dtype=torch.float64), 1e-3
    moved = add_noise(clean, noise, sigmas + step) - add_noise(clean, noise, sigmas)
    assert torch.allclose(moved / step, velocity_target(clean, noise), atol=1e-9)


def test_the_path_runs_from_the_image_to_the_noise():
    clean, noise = torch.randn(1, 4, 6, 8), torch.randn(1, 4, 6, 8)
    assert torch.equal(add_noise(clean, noise, torch.zeros(1)), clean)
    assert torch.equal(add_noise(clean, noise, torch.ones(1)), noise)


def test_the_loss_is_the_plain_mean_square_in_fp32():
    predicted, velocity = torch.randn(3, 4, 6, 8).bfloat16(), torch.randn(3, 4, 6, 8)
    losses = flow_matching_losses(predicted, velocity)
    assert losses.dtype == torch.float32
    assert losses.mean().item() == pytest.approx((predicted.float() - velocity).square().mean().item(), rel=1e-6)
    assert losses[1].item() == pytest.approx((predicted[1].float() - velocity[1]).square().mean().item(), rel=1e-6)
