"""A request becomes images. Knows no LoRA and no file."""

from collections.abc import Iterator

import torch
from diffusers import FluxPipeline
from PIL import Image

from lora.flux.prompt import TEXT_TOKENS, Prompt, encode_prompt
from lora.serving.request import Request


@torch.inference_mode()
def draw(pipeline: FluxPipeline, request: Request) -> Iterator[Image.Image]:
    """The images of a request, one by one: each has a seed of its own, so each can be drawn again alone."""
    prompt = encode_prompt(pipeline, request.prompt)
    for index in range(request.num_outputs):
        yield _draw_one(pipeline, request, prompt, seed=request.seed + index)


def _draw_one(pipeline: FluxPipeline, request: Request, prompt: Prompt, *, seed: int) -> Image.Image:
    width, height = request.size(native=pipeline.vae.config.sample_size)
    return pipeline(
        prompt_embeds=prompt.tokens[None],
        pooled_prompt_embeds=prompt.pooled[None],
        width=width,
        height=height,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        generator=torch.Generator().manual_seed(seed),  # on the CPU, where every machine draws the same
        max_sequence_length=TEXT_TOKENS,
    ).images[0]
