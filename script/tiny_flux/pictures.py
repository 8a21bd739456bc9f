"""What the transformer is taught with: pictures of the world and of monsters, drawn, encoded and kept."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from script.tiny_flux.autoencoder_pool import normalized, pixels_of
from script.tiny_flux.creatures import Creature, render_creature
from script.tiny_flux.described_monster import DescribedMonster, any_monster, render_described
from script.tiny_flux.sitting import Sitting, SittingOverError
from script.tiny_flux.state import StateFolder, replaced_file
from script.tiny_flux.world import BACKGROUNDS, Scene, render, seen_scenes

ENCODED_AT_ONCE = 50
PART = 500  # pictures a file
MONSTERS = 0.6  # share of the pictures; the others show shapes


@dataclass(frozen=True, slots=True)
class Size:
    """Of a picture, in pixels."""

    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded picture with what it shows."""

    latents: Tensor  # fp16 [16, H/8, W/8], scaled as the transformer knows them
    subject: Scene | DescribedMonster


class PictureStore:
    """Pictures by size, the same ones for the same autoencoder and seed. What is encoded is kept in files."""

    def __init__(self, vae: AutoencoderKL, *, folder: StateFolder, sitting: Sitting, seed: int) -> None:
        self._vae, self._sitting, self._seed = vae, sitting, seed
        self._folder = folder.path / "pictures"
        self._folder.mkdir(exist_ok=True)

    def pictures(self, size: Size, count: int) -> list[Picture]:
        """So many pictures of a size."""
        parts = [self._part(size, start, min(PART, count - start)) for start in range(0, count, PART)]
        return [picture for part in parts for picture in part]

    def _part(self, size: Size, start: int, count: int) -> list[Picture]:
        """The pictures from number `start` on: loaded, or drawn and saved."""
        name = f"{size.width}x{size.height}-{start}-{count}"
        rng, path = random.Random(f"{self._seed} {name}"), self._folder / f"{name}.safetensors"
        subjects = [_any_subject(rng) for _ in range(count)]
        if not path.exists():
            images = [draw_subject(subject, size, rng) for subject in subjects]
            self._save(encode_images(self._vae, images), path)
        latents = load_file(path)["latents"]
        return [Picture(*pair) for pair in zip(latents, subjects, strict=True)]

    def _save(self, latents: Tensor, path: Path) -> None:
        """A file of its own, so that a sitting may end between two."""
        with replaced_file(path) as partial:
            save_file({"latents": latents}, partial)
        print(f"pictures: {path.stem} drawn and encoded", flush=True)
        if self._sitting.is_over():
            raise SittingOverError


@torch.no_grad()
def encode_images(vae: AutoencoderKL, images: Sequence[Image.Image]) -> Tensor:
    """Images of one size to scaled latents, fp16 [N, 16, H/8, W/8], on the CPU."""
    parts = []
    for start in range(0, len(images), ENCODED_AT_ONCE):
        pixels = torch.stack([pixels_of(image) for image in images[start : start + ENCODED_AT_ONCE]])
        latents = vae.encode(normalized(pixels).to(vae.device)).latent_dist.mean
        parts.append(((latents - vae.config.shift_factor) * vae.config.scaling_factor).half().cpu())
    return torch.cat(parts)


def draw_subject(subject: Scene | DescribedMonster | Creature, size: Size, rng: random.Random) -> Image.Image:
    """An image of one size; `rng` decides place, scale and shade."""
    if isinstance(subject, Creature):
        return render_creature(subject, width=size.width, height=size.height, rng=rng)
    if isinstance(subject, DescribedMonster):
        return render_described(subject, width=size.width, height=size.height, rng=rng)
    return render(subject, width=size.width, height=size.height, rng=rng)


def _any_subject(rng: random.Random) -> Scene | DescribedMonster:
    if rng.random() < MONSTERS:
        return any_monster(rng.choice(list(BACKGROUNDS)), rng)
    return rng.choice(seen_scenes())
