"""A process that loads a base and generates an image as diffusers documents it; started by bench/cold_start.py."""

import time

import torch
from diffusers import DiffusionPipeline

from bench.marks import PROMPT, STEPS, Timestamps, parse_arguments, print_timestamps


def main() -> None:
    """Load, generate an image, print the timestamps."""
    imported, arguments = time.time(), parse_arguments()
    on_gpu = torch.cuda.is_available()
    pipeline = DiffusionPipeline.from_pretrained(
        arguments.base, torch_dtype=torch.bfloat16 if on_gpu else torch.float32
    )
    pipeline.to("cuda" if on_gpu else "cpu")
    ready = time.time()
    tokenizer = getattr(pipeline, "tokenizer_2", pipeline.tokenizer)  # FLUX.1 has two, and this one's texts are longer
    length = min(512, tokenizer.model_max_length)  # diffusers' default is 512 for any base
    side = arguments.side
    pipeline(prompt=PROMPT, width=side, height=side, num_inference_steps=STEPS, max_sequence_length=length)
    print_timestamps(Timestamps(imported, ready, time.time()))


if __name__ == "__main__":
    main()
