"""Train `weights/tiny-captioner` from scratch with a fixed seed, then measure how well it describes pictures.

Run as `script/build-tiny-captioner`. It needs only this repository and no GPU.
"""

import argparse
from pathlib import Path

import torch

from lora.captioning.answers import caption_of
from lora.captioning.captioner import Captioner as Loaded
from script.tiny_captioner.measure import (
    Describe,
    accuracy,
    demo_monsters,
    described_monsters,
    held_out_captions,
    other_figures,
)
from script.tiny_captioner.model import Dimensions, cropping
from script.tiny_captioner.training import Captioner, Settings, trained
from weights.caption_model import TINY_FOLDER

SETTINGS = Settings(
    seed=0,
    dimensions=Dimensions(side=32, patch=4, width=96, layers=3, text_width=64, text_layers=1, heads=4),
    steps=4000,
    batch=32,
    warm_up=100,
    matrix_rate=0.02,
    rate=2e-3,
)
STORED_PRECISION = torch.float16  # as the base: half the size of fp32, and more precise than bf16 for such weights
READABLE = 0o644  # safetensors writes files that only their owner can read
AT_ONCE = 50


def main() -> None:
    """Build the captioner, save it and print a report."""
    parser = argparse.ArgumentParser(prog="script/build-tiny-captioner", description=__doc__)
    parser.add_argument("--into", type=Path, default=TINY_FOLDER, help="where to write the model")
    parser.add_argument("--threads", type=int, default=1, help="number of CPU threads (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    save(trained(SETTINGS), into=arguments.into)
    print(report(arguments.into))


def save(captioner: Captioner, *, into: Path) -> None:
    """Write the network in fp16 and its processor, in the layout of transformers."""
    captioner.model.to(STORED_PRECISION).save_pretrained(into)
    cropping(captioner.processor).save_pretrained(into)
    for path in into.iterdir():
        path.chmod(READABLE)


def describer(folder: Path) -> Describe:
    """Return what describes images of one size as the trainer does, with the captioner in a folder."""
    loaded = Loaded.load(folder, on=torch.device("cpu"), check=lambda: None)
    return lambda images: [
        caption_of(answer)
        for start in range(0, len(images), AT_ONCE)
        for answer in loaded.answers(images[start : start + AT_ONCE], "")
    ]


def report(folder: Path, *, renders: int = 20, monsters: int = 100) -> str:
    """Return one line per measure, of the captioner in a folder."""
    describe = describer(folder)
    return "\n".join(
        (
            f"held-out combinations: {accuracy(held_out_captions(describe, renders=renders))}",
            f"the demo's monster, the whole caption: {demo_monsters(describe, images=monsters)}",
            f"described monsters, the whole caption: {described_monsters(describe, images=monsters)}",
            f"figures of other kinds, the whole caption: {other_figures(describe, images=monsters)}",
        )
    )


if __name__ == "__main__":
    main()
