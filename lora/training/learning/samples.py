"""Pictures drawn in the midst of a training, with the same seeds every time."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel

from lora.flux.latents import TOKEN_PIXELS
from lora.flux.prompt import Prompt
from lora.flux.sampling import build_pipeline, generate_image
from lora.training.stop import Stop

STEPS, GUIDANCE, FIRST_SEED = 28, 3.5, 42  # as the peer's samples, and as FLUX.1-dev is used
QUALITY = 90


class SampleGenerator:
    """Draws a training's sample prompts with what its transformer wears."""

    def __init__(
        self, transformer: FluxTransformer2DModel, base: Path, prompts: tuple[Prompt, ...], *, side: int, into: Path
    ) -> None:
        vae = AutoencoderKL.from_pretrained(base, subfolder="vae", dtype=transformer.dtype)
        self._pipeline = build_pipeline(transformer, base, vae=vae)
        self._prompts, self._side, self._folder = prompts, side // TOKEN_PIXELS * TOKEN_PIXELS, into

    @torch.no_grad()
    def draw(self, step: int, *, stop: Stop) -> None:
        """One file for each prompt, `step-000250-1.jpg`; raises StopRequestedError between two denoising steps."""
        transformer, vae = self._pipeline.transformer, self._pipeline.vae
        self._folder.mkdir(parents=True, exist_ok=True)
        vae.to(transformer.device)
        try:
            for number, prompt in enumerate(self._prompts, 1):
                self._draw_one(prompt, self._folder / f"step-{step:06}-{number}.jpg", number, stop)
        finally:
            vae.to("cpu")  # where it takes nothing from the training

    def _draw_one(self, prompt: Prompt, path: Path, number: int, stop: Stop) -> None:
        device, dtype = self._pipeline.transformer.device, self._pipeline.transformer.dtype
        picture = generate_image(
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
        picture.save(unfinished, "JPEG", quality=QUALITY)
        unfinished.replace(path)
