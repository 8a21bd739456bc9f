"""The names that tensors are cached under: each says all that the tensor depends on."""

import hashlib
import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from diffusers import FluxPipeline

from lora.dataset.crops import Crop
from lora.flux.fingerprint import fingerprint
from lora.flux.prompt import text_tokens

REVISION = 1  # of all code between a file and its tensors: to be raised with any change of what comes out
LIBRARIES = ("torch", "diffusers", "transformers", "pillow", "pi-heif")


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys for what the encoders of one base make on one device in one precision, with these libraries."""

    images: str
    texts: str

    @classmethod
    def of(cls, encoders: FluxPipeline, base: Path, *, on: torch.device) -> "Keys":
        """For encoders that were loaded from a folder and work on a device."""
        machine = [str(REVISION), _processor(on), str(encoders.dtype), *map(version, LIBRARIES)]
        texts = fingerprint(base, ["text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"])
        return cls(_digest(*machine, fingerprint(base, ["vae"])), _digest(*machine, texts, str(text_tokens(encoders))))

    def latents(self, content: str, view: Crop, *, decoded_for: Crop) -> str:
        """For a view of an image (sha256 of its file); its pixels depend on the last one it was decoded for, too."""
        return _digest("latents", self.images, content, str(view), str(decoded_for))

    def prompt(self, text: str) -> str:
        """For an encoded text."""
        return _digest("prompt", self.texts, text)


def _processor(device: torch.device) -> str:
    """What computes: another kind of it rounds in another way."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} {torch.version.cuda} {torch.backends.cudnn.version()}"
    return f"{device.type} {torch.backends.cpu.get_cpu_capability()}"


def _digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
