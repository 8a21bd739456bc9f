"""Rebuild `weights/tiny-flux` from nothing, seeded; then draw with it and report how well it follows prompts.

Run as `script/build-tiny-flux`. It asks for nothing but this repository; the transformer alone took 56 minutes on two
cores.
"""

import argparse
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline

from lora.training.recipe.neutral import PROMPTS_FILE
from lora.training.recipe.sigmas import Shift
from script.tiny_flux.autoencoder import train_autoencoder
from script.tiny_flux.captions import neutral_prompts
from script.tiny_flux.following import report
from script.tiny_flux.networks import TinyFlux, Tokenizers
from script.tiny_flux.tokenizers import build_clip_tokenizer, build_t5_tokenizer
from script.tiny_flux.transformer import Term, train_transformer
from weights.bases import WEIGHTS

SEED = 0
AUTOENCODER_STEPS = 6_500
TERMS = (
    Term(steps=3_000, rate=1.0, small=0.25, creatures=0.3, rehearsed=False),
    Term(steps=4_300, rate=0.8, small=0.0, creatures=0.35, rehearsed=True),
    Term(steps=1_700, rate=0.5, small=0.0, creatures=0.25, rehearsed=True),
)
STORED_PRECISION = torch.float16  # half the size of fp32, and finer than bf16 for weights of this size
READABLE = 0o644  # safetensors makes files that only their owner can read


def main() -> None:
    """Build, save, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--into", type=Path, default=WEIGHTS / "tiny-flux", help="where to write the model")
    into = parser.parse_args().into
    torch.set_num_threads(2)
    tokenizers = Tokenizers(build_clip_tokenizer(), build_t5_tokenizer())
    vae = train_autoencoder(steps=AUTOENCODER_STEPS, seed=SEED)
    shift = Shift.of(scheduler())
    model = train_transformer(vae, tokenizers, shift=shift, terms=TERMS, seed=SEED)
    save_base(vae, model, tokenizers, into=into)
    print(report(into))


def scheduler() -> FlowMatchEulerDiscreteScheduler:
    """The scheduler of FLUX.1-dev, with its published settings."""
    return FlowMatchEulerDiscreteScheduler(
        shift=3.0,
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    )


def save_base(vae: AutoencoderKL, model: TinyFlux, tokenizers: Tokenizers, *, into: Path) -> None:
    """Write a pipeline that stock diffusers loads; the small text encoders stay fp32, the rest is halved."""
    pipeline = FluxPipeline(
        scheduler=scheduler(),
        vae=vae.to(dtype=STORED_PRECISION),
        text_encoder=model.clip,
        tokenizer=tokenizers.clip,
        text_encoder_2=model.t5,
        tokenizer_2=tokenizers.t5,
        transformer=model.transformer.to(dtype=STORED_PRECISION),
    )
    pipeline.save_pretrained(into)
    (into / PROMPTS_FILE).write_text(json.dumps(neutral_prompts(), indent=1) + "\n")
    for path in into.rglob("*"):
        if path.is_file():
            path.chmod(READABLE)


if __name__ == "__main__":
    main()
