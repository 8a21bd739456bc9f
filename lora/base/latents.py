"""The latents of a family: how its VAE encodes images, and how many pixels a latent holds."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

TOKEN_PIXELS = 16  # image rows and columns that one token of the transformer holds, in all families


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentSpace:
    """The latents that a family trains on, shifted and scaled as its transformer takes them."""

    pixels: int  # image rows and columns that one latent holds: 8 in FLUX.1, 16 in FLUX.2
    channels: int  # in the published bases
    encode: Callable[[nn.Module, Tensor], Tensor]  # VAE, pixels [B, 3, 16h, 16w] in -1..1 -> latents [B, C, H, W] fp32

    @property
    def patch(self) -> int:
        """Latent rows and columns that one token holds."""
        return TOKEN_PIXELS // self.pixels
