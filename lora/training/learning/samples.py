"""Sample images that are generated during a training, always with the same seeds."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from lora.base.family import VAE, SamplingSettings
from lora.base.latents import TOKEN_PIXELS
from lora.base.prompt import Prompt
from lora.families.registry import family_of_model
from lora.images.metadata import exif
from lora.images.products import marked
from lora.images.size import Size
from lora.training.learning.forward_passes import as_in_a_step
from lora.training.recipe.samples import SampleSettings
from lora.training.stop import Stop

FIRST_SEED = 42  # as in ai-toolkit, which counts up from there, too
QUALITY, SUFFIX = 90, ".jpg"  # our choice
LONGEST_SLUG = 60  # characters of a prompt in the name of a file
IMAGE = re.compile(r"step-\d{6,12}-\d{1,4}-seed-\d{1,10}(-[a-z0-9-]{1,60})?\.jpg", re.ASCII)


REFERENCE = "reference-{number}-{place}.jpg"  # of a sample image, by its number, and the place among its references
IS_REFERENCE = re.compile(r"reference-\d{1,4}-\d{1,4}\.jpg", re.ASCII)


@dataclass(frozen=True, slots=True)
class SamplePrompt:
    """A prompt, as text and encoded, with the references that its image is generated beside."""

    text: str
    prompt: Prompt
    references: tuple[Tensor, ...] = ()  # latents [C, H, W] each
    size: Size | None = None  # of the image; None for the square of the settings' side


class SampleGenerator:
    """Generates images of the sample prompts with the transformer and its current LoRA."""

    def __init__(
        self,
        transformer: ModelMixin,
        base: Path,
        prompts: tuple[SamplePrompt, ...],
        settings: SampleSettings,
        *,
        negative: Prompt | None,
        into: Path,
    ) -> None:
        """`negative` is the negative prompt of all images, if the base needs one."""
        family = family_of_model(transformer)
        vae = family.components.vae.from_pretrained(base, subfolder=VAE, dtype=transformer.dtype)
        self._sampling, self._negative = family.sampling, negative
        self._pipeline = family.sampling.build_pipeline(transformer, base, vae=vae)
        self._prompts, self._settings, self._folder = prompts, settings, into
        self._side = settings.side // TOKEN_PIXELS * TOKEN_PIXELS

    @torch.no_grad()
    def generate(self, step: int, *, stop: Stop) -> None:
        """Write one image for each prompt with the seeds 42, 43 and so on, in the prompt's size or else square with the
        settings' side, rounded down to a multiple of 16: `step-000250-1-seed-42-a-photo-of-tok.jpg`. Its metadata have
        prompt, seed and step, and the names of its references.

        Raises StopRequestedError between two denoising steps if there is a reason to stop, OSError if a file cannot be
        written, and torch.OutOfMemoryError if the GPU runs out of memory. The VAE is on the CPU afterwards.
        """
        transformer, vae = self._pipeline.transformer, self._pipeline.vae
        self._folder.mkdir(parents=True, exist_ok=True)
        vae.to(transformer.device)
        try:
            with as_in_a_step(transformer):
                for number, prompt in enumerate(self._prompts, 1):
                    self._generate_one(prompt, step, number, stop)
        finally:
            vae.to("cpu")  # where it takes no memory from the training

    def images_of(self, step: int) -> Iterator[tuple[SamplePrompt, Path]]:
        """The prompts and their images of a step."""
        for number, prompt in enumerate(self._prompts, 1):
            name = _file_name(prompt.text, step=step, number=number, seed=FIRST_SEED + number - 1)
            yield prompt, self._folder / name

    def files(self) -> dict[str, Tensor]:
        """The bytes of all images so far by file name, for a checkpoint."""
        return {path.name: torch.from_numpy(np.fromfile(path, np.uint8)) for path in self._images()}

    def restore(self, files: Mapping[str, Tensor]) -> None:
        """Write the images of a checkpoint, which may be untrusted, in place of all that are there.

        Raises TypeError unless they are `files()` of a sample generator.
        """
        for name, content in files.items():
            if not IMAGE.fullmatch(name) or content.dtype != torch.uint8 or content.ndim != 1:
                raise TypeError(f"{name!r:.60} is no sample image")
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in self._images():
            path.unlink()
        for name, content in files.items():
            (self._folder / name).write_bytes(content.numpy().tobytes())

    def _images(self) -> list[Path]:
        return sorted(path for path in self._folder.glob("*") if IMAGE.fullmatch(path.name))

    def _generate_one(self, prompt: SamplePrompt, step: int, number: int, stop: Stop) -> None:
        here = self._pipeline.transformer.device, self._pipeline.transformer.dtype
        settings, seed = self._settings, FIRST_SEED + number - 1
        negative = None if self._negative is None else self._negative.to(*here)
        size = prompt.size or Size(self._side, self._side)
        of_image = SamplingSettings(
            width=size.width,
            height=size.height,
            steps=settings.steps,
            guidance=settings.guidance,
            seed=seed,
            after_step=lambda _: stop.raise_if_requested(),
            references=tuple(reference[None].to(*here) for reference in prompt.references),
        )
        image = self._sampling.generate_image(self._pipeline, prompt.prompt.to(*here), negative, of_image)
        path = self._folder / _file_name(prompt.text, step=step, number=number, seed=seed)
        described = {"prompt": prompt.text, "seed": seed, "training_step": step}
        described |= {"num_inference_steps": settings.steps, "guidance": settings.guidance}
        if prompt.references:
            described["references"] = [
                REFERENCE.format(number=number, place=place) for place in range(1, len(prompt.references) + 1)
            ]
        unfinished = path.with_suffix(".unfinished")
        tags = marked(exif(described), "sample of a training")
        image.save(unfinished, "JPEG", quality=QUALITY, exif=tags)
        unfinished.replace(path)


def references_of(settings: Mapping[str, object], folder: Path) -> tuple[Path, ...]:
    """The files of the references of a sample image, of which `settings` are in its metadata, in the folder of samples.
    What is not there is left out, and so are names that this module does not give: a checkpoint may be untrusted."""
    found = settings.get("references")
    names = map(str, found) if isinstance(found, list) else ()
    return tuple(folder / name for name in names if IS_REFERENCE.fullmatch(name) and (folder / name).is_file())


def _file_name(prompt: str, *, step: int, number: int, seed: int) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", prompt.casefold())[:LONGEST_SLUG].strip("-")
    return f"step-{step:06}-{number}-seed-{seed}" + (f"-{slug}" if slug else "") + SUFFIX
