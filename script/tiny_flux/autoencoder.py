"""Trains the VAE of a base. Knows no captions, and of the VAE only that it encodes and decodes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from script.tiny_flux.autoencoder_pool import Crops, random_crops, render_pool
from script.tiny_flux.fidelity import fidelity
from script.tiny_flux.latents import Autoencoder
from script.tiny_flux.optimization import Optimization
from script.tiny_flux.schedule import warm_up_then_cosine
from script.tiny_flux.state import Tensors

BETAS = (0.9, 0.99)
GRADIENT_WEIGHT = 0.5
SQUARE_WEIGHT = 4.0  # at 30 dB the squared error counts about as much as the absolute one


@dataclass(frozen=True, slots=True)
class AutoencoderSettings:
    """The size of the autoencoder, and its training."""

    widths: tuple[int, ...]  # channels of its four levels
    steps: int
    rate: float  # the highest learning rate
    pool: int  # number of training images
    crops: tuple[Crops, ...]  # used in turn; large ones keep flat areas flat
    seed: int


class AutoencoderTrainer:
    """Trains a VAE that reconstructs the world, and shapes and colours that it is not trained on.

    Its step is never compiled: torch.compile with bf16 autocast on a CPU gives zero gradients without an error.
    """

    def __init__(
        self, settings: AutoencoderSettings, vae: Autoencoder, *, kl_weight: float, measured: int, device: torch.device
    ) -> None:
        self.settings, self._kl_weight, self._measured, self._device = settings, kl_weight, measured, device
        self.vae = vae.to(device)
        optimizer = torch.optim.AdamW(
            self.vae.parameters(), lr=settings.rate, betas=BETAS, weight_decay=1e-3, foreach=True
        )
        self._optimization = Optimization([optimizer], rate_factor=warm_up_then_cosine(settings.steps, warm_up=100))
        self._generator = torch.Generator().manual_seed(settings.seed)
        self._pool = render_pool(settings.pool, seed=settings.seed)

    @property
    def steps(self) -> int:
        """The number of steps of the stage."""
        return self.settings.steps

    def step(self, index: int) -> float:
        """Take the step of this number on one batch of crops, and return its loss."""
        crops = self.settings.crops[index % len(self.settings.crops)]
        pixels = random_crops(self._pool, crops, generator=self._generator)
        loss = self._loss(pixels.to(self._device))
        loss.backward()
        self._optimization.step()
        return loss.item()

    def measure(self) -> str:
        """Return the reconstruction quality on held-out images, in decibels, as text."""
        with self._optimization.averaged():
            return str(fidelity(self.vae, images=self._measured))

    def state_dict(self) -> Tensors:
        """Return weights, averages, optimizer and random generator."""
        return {
            "vae": self.vae.state_dict(),
            "optimization": self._optimization.state_dict(),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: Tensors) -> None:
        """Load a state from `state_dict`."""
        self.vae.load_state_dict(state["vae"])
        self._optimization.load_state_dict(state["optimization"])
        self._generator.set_state(state["generator"])

    def finished(self) -> Autoencoder:
        """Return the VAE with its averaged weights."""
        self._optimization.use_average()
        return self.vae.eval().requires_grad_(False)

    def measured_images(self) -> Tensor:
        """Return the images for the statistics of the latents: an eighth of the training images, uint8 [N, 3, H, W]."""
        return self._pool[: self.settings.pool // 8]

    def _loss(self, pixels: Tensor) -> Tensor:
        """Return the absolute, squared and edge error of the reconstruction plus a small KL term."""
        with torch.autocast(self._device.type, torch.bfloat16):
            posterior = self.vae.encode(pixels).latent_dist
            mean, deviation = posterior.mean, posterior.std
            noise = torch.randn(mean.shape, generator=self._generator).to(self._device)
            restored = self.vae.decode(mean + deviation * noise).sample.float()
        error = restored - pixels
        edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        reconstruction = error.abs().mean() + SQUARE_WEIGHT * error.square().mean() + GRADIENT_WEIGHT * edges
        kl = 0.5 * (mean.float().square() + posterior.var.float() - 1.0 - posterior.logvar.float()).mean()
        return reconstruction + self._kl_weight * kl
