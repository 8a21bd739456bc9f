"""Rebuild `weights/tiny-flux` from nothing, seeded; then generate with it and report how well it follows prompts.

Run as `script/build-tiny-flux`. It needs nothing but this repository. Its state is saved every few minutes: stopped, or
after `--minutes`, the same command goes on from there.
"""

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline

from lora.flux.prompt import TEXT_TOKENS
from lora.training.recipe.sigmas import Shift
from script.tiny_flux.autoencoder import AutoencoderSettings, AutoencoderTrainer
from script.tiny_flux.autoencoder_pool import Crops
from script.tiny_flux.following import report
from script.tiny_flux.networks import TinyFlux, Tokenizers
from script.tiny_flux.sitting import Sitting, SittingOverError, TimedSitting, train_stage
from script.tiny_flux.state import StateFolder
from script.tiny_flux.tokenizers import build_clip_tokenizer, build_t5_tokenizer
from script.tiny_flux.transformer import Term, train_transformer
from weights.bases import WEIGHTS

SEED = 0
AUTOENCODER = AutoencoderSettings(
    widths=(32, 64, 96, 96), steps=9_000, pool=6_000, crops=(Crops(32, 24), Crops(64, 8), Crops(128, 2)), seed=SEED
)
STATE = Path("~/.cache/flux-lora/tiny-flux-build")
TERMS = (
    Term(steps=3_000, rate=1.0, small=0.25, creatures=0.3, rehearsed=False),
    Term(steps=4_300, rate=0.8, small=0.0, creatures=0.35, rehearsed=True),
    Term(steps=1_700, rate=0.5, small=0.0, creatures=0.25, rehearsed=True),
)
STORED_PRECISION = torch.float16  # half the size of fp32, and finer than bf16 for weights of this size
READABLE = 0o644  # safetensors makes files that only their owner can read


def main() -> None:
    """Build, save, report."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    try:
        build(arguments.into, folder=StateFolder(arguments.state), sitting=TimedSitting(arguments.minutes))
    except SittingOverError:
        print(f"The sitting is over. The state is in {arguments.state}; the same command goes on from there.")
    else:
        print(report(arguments.into))


def build(into: Path, *, folder: StateFolder, sitting: Sitting) -> None:
    """Take the build on from its state to its end, a stage after the other."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    autoencoder = AutoencoderTrainer(AUTOENCODER, device=device)
    train_stage("autoencoder", autoencoder, folder=folder, sitting=sitting)
    vae = autoencoder.finished()
    tokenizers = Tokenizers(build_clip_tokenizer(), build_t5_tokenizer(max_length=TEXT_TOKENS))
    model = train_transformer(vae, tokenizers, shift=Shift.of(scheduler()), terms=TERMS, seed=SEED)
    save_base(vae, model, tokenizers, into=into)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, default=WEIGHTS / "tiny-flux", help="where to write the model")
    parser.add_argument("--state", type=Path, default=STATE.expanduser(), help="where to keep the state of the build")
    parser.add_argument("--minutes", type=float, help="how long to work now; without it, to the end")
    parser.add_argument("--threads", type=int, default=2, help="how many threads compute, where there is no GPU")
    return parser.parse_args()


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
    for path in into.rglob("*"):
        if path.is_file():
            path.chmod(READABLE)


if __name__ == "__main__":
    main()
