"""Generates with a FLUX.2 [klein] pipeline of stock diffusers, and reports how well a base follows prompts."""

from pathlib import Path

import torch
from diffusers import Flux2KleinPipeline
from PIL import Image

from script.tiny_flux.following import STEPS, Generator
from script.tiny_flux.report import following_lines

SIDE, SEED = 128, 100


def klein_report(base: Path, *, renders: int = 20, seeds: int = 4) -> str:
    """Return one line per measure, on images of combinations that the base is not trained on."""
    return "\n".join(following_lines(klein_generator(load_klein(base)), renders=renders, seeds=seeds))


def load_klein(base: Path) -> Flux2KleinPipeline:
    """Load a base as stock diffusers does, in fp32."""
    pipeline = Flux2KleinPipeline.from_pretrained(base, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def klein_generator(pipeline: Flux2KleinPipeline, *, steps: int = STEPS) -> Generator:
    """Return a generator with the defaults of the pipeline, so with classifier-free guidance, and with fewer steps."""

    def generate(prompt: str, count: int) -> list[Image.Image]:
        images: list[Image.Image] = pipeline(
            prompt=[prompt] * count,
            width=SIDE,
            height=SIDE,
            num_inference_steps=steps,
            max_sequence_length=pipeline.tokenizer.model_max_length,
            generator=[torch.Generator().manual_seed(SEED + index) for index in range(count)],
        ).images
        return images

    return generate
