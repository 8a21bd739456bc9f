"""The training images of the transformer: scenes and monsters, rendered, encoded and stored in files."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from script.tiny_flux.autoencoder_pool import normalized, pixels_of
from script.tiny_flux.build_run import Run, RunOverError
from script.tiny_flux.creatures import Creature, render_creature
from script.tiny_flux.described_monster import DescribedMonster, any_monster, render_described
from script.tiny_flux.latents import Autoencoder, model_latents
from script.tiny_flux.state import StateFolder, replaced_file
from script.tiny_flux.world import BACKGROUNDS, Scene, render, training_scenes

ENCODED_AT_ONCE = 50
PART = 500  # images per file
MONSTERS = 0.6  # share of the images; the others show shapes


@dataclass(frozen=True, slots=True)
class Size:
    """The size of an image in pixels."""

    width: int
    height: int


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """The latents of an image, and its subject."""

    latents: Tensor  # fp16, as the transformer expects them: [16, H/8, W/8] for FLUX.1, [128, H/16, W/16] for FLUX.2
    subject: Scene | DescribedMonster


class ImageStore:
    """Renders and encodes images, and stores their latents in files.

    The images are the same for the same autoencoder and seed.
    """

    def __init__(self, vae: Autoencoder, *, folder: StateFolder, run: Run, seed: int) -> None:
        self._vae, self._run, self._seed = vae, run, seed
        self._folder = folder.path / "pictures"
        self._folder.mkdir(exist_ok=True)

    def images(self, size: Size, count: int) -> list[EncodedImage]:
        """Return `count` images of a size."""
        parts = [self._part(size, start, min(PART, count - start)) for start in range(0, count, PART)]
        return [image for part in parts for image in part]

    def _part(self, size: Size, start: int, count: int) -> list[EncodedImage]:
        """Return the images from number `start` on: loaded, or rendered and saved."""
        name = f"{size.width}x{size.height}-{start}-{count}"
        rng, path = random.Random(f"{self._seed} {name}"), self._folder / f"{name}.safetensors"
        subjects = [_any_subject(rng) for _ in range(count)]
        if not path.exists():
            images = [render_subject(subject, size, rng) for subject in subjects]
            self._save(encode_images(self._vae, images), path)
        latents = load_file(path)["latents"]
        return [EncodedImage(*pair) for pair in zip(latents, subjects, strict=True)]

    def _save(self, latents: Tensor, path: Path) -> None:
        """Write a file. The build may stop after each of them."""
        with replaced_file(path) as partial:
            save_file({"latents": latents}, partial)
        print(f"images: {path.stem} rendered and encoded", flush=True)
        if self._run.is_over():
            raise RunOverError


@torch.no_grad()
def encode_images(vae: Autoencoder, images: Sequence[Image.Image]) -> Tensor:
    """Return the latents of images of one size as the transformer expects them (`model_latents`), fp16, on the CPU."""
    parts = []
    for start in range(0, len(images), ENCODED_AT_ONCE):
        pixels = torch.stack([pixels_of(image) for image in images[start : start + ENCODED_AT_ONCE]])
        mean = vae.encode(normalized(pixels).to(vae.device)).latent_dist.mean
        parts.append(model_latents(vae, mean).half().cpu())
    return torch.cat(parts)


def render_subject(subject: Scene | DescribedMonster | Creature, size: Size, rng: random.Random) -> Image.Image:
    """Return an image of the subject; `rng` varies its position, size and shade."""
    if isinstance(subject, Creature):
        return render_creature(subject, width=size.width, height=size.height, rng=rng)
    if isinstance(subject, DescribedMonster):
        return render_described(subject, width=size.width, height=size.height, rng=rng)
    return render(subject, width=size.width, height=size.height, rng=rng)


def _any_subject(rng: random.Random) -> Scene | DescribedMonster:
    if rng.random() < MONSTERS:
        return any_monster(rng.choice(list(BACKGROUNDS)), rng)
    return rng.choice(training_scenes())
