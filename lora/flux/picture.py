"""One picture from an encoded prompt. Shared by training, which shows samples, and serving."""

from collections.abc import Callable

import torch
from diffusers import FluxPipeline
from PIL import Image

from lora.flux.prompt import Prompt


def draw_picture(
    pipeline: FluxPipeline,
    prompt: Prompt,
    *,
    width: int,
    height: int,
    steps: int,
    guidance: float,
    seed: int,
    after_step: Callable[[], None] = lambda: None,
) -> Image.Image:
    """Draw at `width` times `height` pixels, in so many denoising steps; the same seed gives the same picture.

    `after_step` is called after each denoising step, and may raise.
    """

    def on_step_end(
        _pipeline: FluxPipeline, _step: int, _timestep: int, kwargs: dict[str, object]
    ) -> dict[str, object]:
        after_step()
        return kwargs

    return pipeline(
        prompt_embeds=prompt.tokens[None],
        pooled_prompt_embeds=prompt.pooled[None],
        width=width,
        height=height,
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=torch.Generator().manual_seed(seed),  # on the CPU, where every machine draws the same
        callback_on_step_end=on_step_end,
    ).images[0]
