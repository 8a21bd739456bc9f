"""What differs between the families of models: FLUX.1, FLUX.2 [klein]. Knows none of them."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from torch import Tensor, nn

from script.tiny_flux.autoencoder import AutoencoderSettings
from script.tiny_flux.latents import Autoencoder

Text = Any  # what the text encoders of the family return for a batch of captions
MATRIX = 2  # number of dimensions


class Networks(nn.Module, ABC):
    """The networks of a family that are trained together: its transformer and its text encoders."""

    transformer: Any

    @abstractmethod
    def text_encoders(self) -> list[nn.Module]:
        """Return the networks besides the transformer."""

    @abstractmethod
    def encode(self, captions: list[str]) -> Text:
        """Encode captions [B] as the pipeline does."""

    @abstractmethod
    def velocity(
        self, transformer: Callable[..., Any], noisy: Tensor, *, sigmas: Tensor, text: Text, guidance: float
    ) -> Tensor:
        """Return the velocity of noisy latents [B, C, H, W] at sigmas [B] by the transformer, or a compiled one of it.

        `guidance` is the guidance input, for a family that has it.
        """

    @abstractmethod
    def image_tokens(self, latents: Tensor) -> int:
        """Return the number of tokens that the latents [C, H, W] of an image are for the transformer."""

    @abstractmethod
    def modulation_input(self, sigmas: Tensor, text: Text, *, guidance: float) -> Tensor | None:
        """Return what the modulation (adaLN) of the blocks is computed from, [B, D]; None if no prompt changes it."""

    def block_matrices(self) -> list[nn.Parameter]:
        """Return the weights of the linear layers inside the blocks, on which LoRAs are trained."""
        blocks = [*self.transformer.transformer_blocks, *self.transformer.single_transformer_blocks]
        return [parameter for block in blocks for parameter in block.parameters() if parameter.ndim == MATRIX]


@dataclass(frozen=True, slots=True)
class Family:
    """A family of models."""

    untrained_autoencoder: Callable[[AutoencoderSettings], Autoencoder]
    kl_weight: float  # of the autoencoder's training
    set_statistics: Callable[[Autoencoder, Tensor], None]  # of the latents of images uint8 [N, 3, H, W]
    untrained_networks: Callable[[], Networks]
    pipeline: Callable[[Autoencoder, Any], DiffusionPipeline]  # of these networks
    report: Callable[[Path], str]  # on the quality of a saved pipeline
