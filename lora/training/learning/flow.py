"""The mathematics of flow matching. Tensors in, tensors out; no model in sight.

A picture moves to noise along a straight line, and its velocity along that line is what the model learns (Liu et al.
2022, arXiv 2209.03003; FLUX.1 uses it as is).
"""

from torch import Tensor


def point_on_path(clean: Tensor, noise: Tensor, sigmas: Tensor) -> Tensor:
    """Where each latent [B, C, H, W] is on its way to its noise at sigmas [B]: (1 - sigma) clean + sigma noise."""
    share = sigmas.view(-1, 1, 1, 1)
    return (1 - share) * clean + share * noise


def velocity_of_path(clean: Tensor, noise: Tensor) -> Tensor:
    """The derivative of `point_on_path` by sigma: noise - clean."""
    return noise - clean


def flow_losses(predicted: Tensor, velocity: Tensor) -> Tensor:
    """Plain mean squared error of each sample in fp32, [B]: each counts the same whatever its size."""
    return (predicted.float() - velocity.float()).square().mean(dim=(1, 2, 3))
