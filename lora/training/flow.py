"""The mathematics of flow matching. Tensors in, tensors out; no model in sight.

sigma is the share of noise: 0 is the clean picture, 1 is pure noise. A picture moves to noise along a straight line,
and its velocity along that line is what the model learns (Liu et al. 2022, arXiv 2209.03003; FLUX.1 uses it as is).
"""

from dataclasses import dataclass

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

SMALLEST_SIGMA = 1e-4  # sigma stays this far from both ends, where there is nothing to learn


@dataclass(frozen=True, slots=True)
class Shift:
    """How FLUX moves its noise levels with the size of the picture: a line through two points, from its scheduler."""

    base_tokens: int
    max_tokens: int
    base_mu: float
    max_mu: float

    @classmethod
    def of(cls, scheduler: FlowMatchEulerDiscreteScheduler) -> "Shift":
        """The shift that a base model is sampled with."""
        config = scheduler.config
        return cls(config.base_image_seq_len, config.max_image_seq_len, config.base_shift, config.max_shift)

    def mu(self, image_tokens: int) -> float:
        """The shift of logit(sigma) for a picture of so many packed tokens (`calculate_shift` of diffusers)."""
        slope = (self.max_mu - self.base_mu) / (self.max_tokens - self.base_tokens)
        return self.base_mu + slope * (image_tokens - self.base_tokens)


def sample_sigmas(count: int, *, mu: float, generator: torch.Generator) -> Tensor:
    """Sigmas [count], fp32, on the generator's device, one a sample: the logistic function of a normal around `mu`.

    Shifting sigma as FLUX's scheduler does is the same as adding mu in logit space, so this is the logit-normal
    distribution of Esser et al. (2024, arXiv 2403.03206, 3.1) shifted for the picture's size.
    """
    normal = torch.randn(count, generator=generator, device=generator.device, dtype=torch.float32)
    return torch.sigmoid(mu + normal).clamp(SMALLEST_SIGMA, 1 - SMALLEST_SIGMA)


def point_on_path(clean: Tensor, noise: Tensor, sigmas: Tensor) -> Tensor:
    """Where each latent [B, C, H, W] is on its way to its noise at sigmas [B]: (1 - sigma) clean + sigma noise."""
    share = sigmas.view(-1, 1, 1, 1)
    return (1 - share) * clean + share * noise


def velocity_of_path(clean: Tensor, noise: Tensor) -> Tensor:
    """The derivative of `point_on_path` by sigma: noise - clean."""
    return noise - clean


def flow_loss(predicted: Tensor, velocity: Tensor) -> Tensor:
    """Plain mean squared error in fp32; each sample counts the same whatever its size. Scalar."""
    return (predicted.float() - velocity.float()).square().mean(dim=(1, 2, 3)).mean()
