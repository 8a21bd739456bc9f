"""A process that loads a base and draws as diffusers documents it; started by bench/cold_start.py."""

import time

import torch
from diffusers import FluxPipeline

from bench.marks import PROMPT, STEPS, Marks, asked, tell


def main() -> None:
    """Load, draw, tell."""
    imported, what = time.time(), asked()
    on_gpu = torch.cuda.is_available()
    pipeline = FluxPipeline.from_pretrained(what.base, torch_dtype=torch.bfloat16 if on_gpu else torch.float32)
    pipeline.to("cuda" if on_gpu else "cpu")
    ready = time.time()
    length = min(512, pipeline.tokenizer_2.model_max_length)  # diffusers' own default is 512 whatever the base
    pipeline(PROMPT, width=what.side, height=what.side, num_inference_steps=STEPS, max_sequence_length=length)
    tell(Marks(imported, ready, time.time()))


if __name__ == "__main__":
    main()
