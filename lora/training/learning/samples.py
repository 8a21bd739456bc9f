"""Sample images that are generated during a training, always with the same seeds."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel

from lora.flux.latents import TOKEN_PIXELS
from lora.flux.prompt import Prompt
from lora.flux.sampling import build_pipeline, generate_image
from lora.images.products import exif_mark
from lora.training.learning.forward_passes import as_in_a_step
from lora.training.stop import Stop

# As the samples of ostris/flux-dev-lora-trainer, and as FLUX.1-dev is usually run.
STEPS, GUIDANCE, FIRST_SEED = 28, 3.5, 42
QUALITY = 90  # of JPEG; our choice


class SampleGenerator:
    """Generates images of the sample prompts with the transformer and its current LoRA."""

    def __init__(
        self, transformer: FluxTransformer2DModel, base: Path, prompts: tuple[Prompt, ...], *, side: int, into: Path
    ) -> None:
        vae = AutoencoderKL.from_pretrained(base, subfolder="vae", dtype=transformer.dtype)
        self._pipeline = build_pipeline(transformer, base, vae=vae)
        self._prompts, self._side, self._folder = prompts, side // TOKEN_PIXELS * TOKEN_PIXELS, into

    @torch.no_grad()
    def generate(self, step: int, *, stop: Stop) -> None:
        """Write one square image of `side` pixels, rounded down to a multiple of 16, for each prompt:
        `step-000250-1.jpg` with the seed 42, `step-000250-2.jpg` with 43 and so on.

        Raises StopRequestedError between two denoising steps if there is a reason to stop, OSError if a file cannot be
        written, and torch.OutOfMemoryError if the GPU runs out of memory. The VAE is on the CPU afterwards.
        """
        transformer, vae = self._pipeline.transformer, self._pipeline.vae
        self._folder.mkdir(parents=True, exist_ok=True)
        vae.to(transformer.device)
        try:
            with as_in_a_step(transformer):
                for number, prompt in enumerate(self._prompts, 1):
                    self._generate_one(prompt, self._folder / f"step-{step:06}-{number}.jpg", number, stop)
        finally:
            vae.to("cpu")  # where it takes no memory from the training

    def _generate_one(self, prompt: Prompt, path: Path, number: int, stop: Stop) -> None:
        device, dtype = self._pipeline.transformer.device, self._pipeline.transformer.dtype
        image = generate_image(
            self._pipeline,
            prompt.to(device, dtype),
            width=self._side,
            height=self._side,
            steps=STEPS,
            guidance=GUIDANCE,
            seed=FIRST_SEED + number - 1,
            after_step=stop.raise_if_requested,
        )
        unfinished = path.with_suffix(".unfinished")
        image.save(unfinished, "JPEG", quality=QUALITY, exif=exif_mark("sample of a training"))
        unfinished.replace(path)
