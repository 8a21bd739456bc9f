"""The mathematics of flow matching: functions of tensors that know no model.

An image moves to noise along a straight line, and the model learns its velocity along that line (Liu et al. 2022, arXiv
2209.03003, which FLUX.1 uses unchanged).
"""

from torch import Tensor


def add_noise(clean: Tensor, noise: Tensor, sigmas: Tensor) -> Tensor:
    """The points [B, C, H, W] between latents and their noise at sigmas [B]: (1 - sigma) clean + sigma noise."""
    share = sigmas.view(-1, 1, 1, 1)
    return (1 - share) * clean + share * noise


def velocity_target(clean: Tensor, noise: Tensor) -> Tensor:
    """The velocity [B, C, H, W], which is the derivative of `add_noise` by sigma: noise - clean."""
    return noise - clean


def flow_matching_losses(predicted: Tensor, velocity: Tensor, weights: Tensor | None = None) -> Tensor:
    """The mean squared error [B] of each sample in fp32; samples count the same whatever their size.

    `weights` [B, H, W] are multiplied with the squared errors before the mean is taken, which is not divided by theirs.
    """
    errors = (predicted.float() - velocity.float()).square()
    return (errors if weights is None else errors * weights[:, None]).mean(dim=(1, 2, 3))
