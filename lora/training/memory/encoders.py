"""Where the encoders are while they encode a data set, and what memory that takes. Computes with numbers only."""

from typing import Literal

from lora.training.memory.weights import BF16

EncoderPlacement = Literal["together", "in turn", "host"]
ENCODER_PLACEMENTS: tuple[EncoderPlacement, ...] = ("together", "in turn", "host")  # from the fastest to the smallest

PIXELS_PER_TOKEN = 16 * 16
# While it decodes, three feature maps at once of 256 channels in full size, counted with tensors without data; while it
# encodes, five of 128.
VAE_BYTES_PER_PIXEL = 6 * 128 * BF16


def encoding_bytes(
    placement: EncoderPlacement, encoder_bytes: tuple[int, ...], vae_bytes: int, *, image_tokens: int
) -> int:
    """Bytes on the device while the encoders run, whose weights have these bytes; for the largest image."""
    parts = (*encoder_bytes, vae_bytes + vae_activation_bytes(image_tokens))
    return {"together": sum(parts), "in turn": max(parts), "host": 0}[placement]


def vae_activation_bytes(image_tokens: int) -> int:
    """Bytes of activations while the VAE encodes or decodes one image."""
    return image_tokens * PIXELS_PER_TOKEN * VAE_BYTES_PER_PIXEL
