"""A request becomes images. Knows no LoRA and no file."""

from collections.abc import Iterator

import torch
from diffusers import FluxPipeline
from PIL import Image

from lora.flux.picture import draw_picture
from lora.flux.prompt import encode_prompt
from lora.serving.request import Request


@torch.inference_mode()
def draw(pipeline: FluxPipeline, request: Request) -> Iterator[Image.Image]:
    """The images of a request, one by one: each has a seed of its own, so each can be drawn again alone."""
    prompt = encode_prompt(pipeline, request.prompt)
    width, height = request.size(native=pipeline.vae.config.sample_size)
    for index in range(request.num_outputs):
        yield draw_picture(
            pipeline,
            prompt,
            width=width,
            height=height,
            steps=request.num_inference_steps,
            guidance=request.guidance_scale,
            seed=request.seed + index,
        )
