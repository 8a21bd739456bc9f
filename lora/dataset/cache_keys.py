"""Cache keys for tensors: each covers everything that the tensor depends on."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from diffusers import DiffusionPipeline

from lora.base.family import VAE
from lora.base.fingerprint import fingerprint
from lora.dataset.crops import Crop
from lora.families.registry import family_of_model

REVISION = 1  # of the code that turns files into tensors: increase it whenever its results change
LIBRARIES = ("torch", "diffusers", "transformers", "pillow", "pi-heif")


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys for the outputs of the encoders of one base model, on one device, in one precision, with these libraries."""

    images: str
    texts: str

    @classmethod
    def of(cls, encoders: DiffusionPipeline, base: Path, *, on: torch.device) -> "Keys":
        """Keys for encoders that are loaded from the folder `base` and run on the device `on`."""
        machine = [str(REVISION), _processor(on), str(encoders.dtype), *map(version, LIBRARIES)]
        family = family_of_model(encoders)
        texts, length = fingerprint(base, family.components.of_text), family.text.length(encoders)
        return cls(_digest(*machine, fingerprint(base, [VAE])), _digest(*machine, texts, str(length)))

    def latents(self, appearance: str, crop: Crop, *, decoded_for: Crop) -> str:
        """The key for a crop of an image. `appearance` is that of CaptionedImage; the pixels also depend on the last
        crop that the image was decoded for."""
        return _digest("latents", self.images, appearance, str(crop), str(decoded_for))

    def mask(self, content: str, mask: str, crops: Iterable[Crop]) -> str:
        """The key for the mask of an image in all of its crops; `content` and `mask` are the sha256 of their files."""
        return _digest("mask", self.images, content, mask, *map(str, crops))

    def prompt(self, text: str) -> str:
        """The key for an encoded text."""
        return _digest("prompt", self.texts, text)


def _processor(device: torch.device) -> str:
    """The processor and its libraries: different ones round differently."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} {torch.version.cuda} {torch.backends.cudnn.version()}"
    return f"{device.type} {torch.backends.cpu.get_cpu_capability()}"


def _digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
