"""The distribution of the noise levels (sigmas) in training. Knows no images.

sigma is the share of noise: 0 is the clean image, 1 is pure noise.
"""

from dataclasses import dataclass

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

SMALLEST_SIGMA = 1e-4  # distance of sigma from both ends, where there is nothing to learn; our choice
STYLE_LOGIT_MEAN = 3.0  # where style is decided (Style-Friendly SNR Sampler, arXiv 2411.14793)


@dataclass(frozen=True, slots=True)
class Shift:
    """How FLUX shifts its noise levels with the image size: a line through two points, from its scheduler."""

    base_tokens: int
    max_tokens: int
    base_mu: float
    max_mu: float

    @classmethod
    def of(cls, scheduler: FlowMatchEulerDiscreteScheduler) -> "Shift":
        """The shift of the scheduler with which a base model is sampled."""
        config = scheduler.config
        return cls(config.base_image_seq_len, config.max_image_seq_len, config.base_shift, config.max_shift)

    def mu(self, image_tokens: int) -> float:
        """The shift of logit(sigma) for an image of `image_tokens` packed tokens (`calculate_shift` in diffusers)."""
        slope = (self.max_mu - self.base_mu) / (self.max_tokens - self.base_tokens)
        return self.base_mu + slope * (image_tokens - self.base_tokens)


@dataclass(frozen=True, slots=True)
class SigmaRule:
    """The distribution of the trained sigmas: a normal distribution in logit space, or a mixture of two.

    Shifting sigma as FLUX's scheduler does is the same as adding mu in logit space. So this family includes the
    logit-normal distribution of Esser et al. (2024, arXiv 2403.03206, 3.1), with or without the shift for the image
    size, and the sampler for styles.
    """

    logit_mean: float | None  # None is the shift for the image size
    logit_std: float
    style_share: float  # share of samples that are drawn around STYLE_LOGIT_MEAN instead

    def sample(self, count: int, *, mu: float, generator: torch.Generator) -> Tensor:
        """Draw sigmas [count] in fp32, one per sample; `mu` is the shift for the image size."""
        mean = torch.full((count,), mu if self.logit_mean is None else self.logit_mean)
        if self.style_share:
            mean[torch.rand(count, generator=generator) < self.style_share] = STYLE_LOGIT_MEAN
        normal = torch.randn(count, generator=generator, dtype=torch.float32)
        return torch.sigmoid(mean + self.logit_std * normal).clamp(SMALLEST_SIGMA, 1 - SMALLEST_SIGMA)
