"""How well preservation keeps the embedded base, and how much it costs the subject: the demo's training with and
without it.

Each training runs through `script/train`. Then images are generated at lora_scale 1, for the prompts with the trigger
word and for combinations that the base is not trained on, and simple measures count what they show. The base without a
LoRA comes first.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from diffusers import FluxPipeline
from PIL import Image

from bench.machine import machine
from bench.report import argument_parser, table, write_results
from lora.families.loading import load_pipeline
from lora.formats.layer_names.flux1 import FLUX1
from lora.formats.reading import convert_lora
from lora.serving.generation import generate
from lora.serving.lora_merger import AppliedLora, LoraMerger
from script.demo import TRAINING, WITH_TRIGGER
from script.tiny_flux.following import plain_request
from script.tiny_flux.measure import classify
from script.tiny_flux.monster import ARCHIVE
from script.tiny_flux.monster_measure import is_monster
from script.tiny_flux.shape_measure import classify_strictly
from script.tiny_flux.world import Scene, caption, held_out_scenes
from weights.bases import WEIGHTS
from weights.local_files import EVERYWHERE
from weights.references import read_lora

BASE = WEIGHTS / "tiny-flux"
SHARES = (0.0, 0.25, 0.5)
FIRST_SEED = 1000  # different from those of the demo


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is trained and generated."""

    steps: int
    scenes: int
    seeds_with_trigger: int  # images of each prompt with the trigger word
    seeds_without: int  # images of each scene


FULL, SMALL = Extent(int(str(TRAINING["steps"])), 30, 30, 2), Extent(2, 1, 1, 1)


@dataclass(frozen=True, slots=True)
class Counts:
    """The numbers of images by what they show."""

    arm: str
    seconds: float  # of the training, including the start of its process
    with_trigger: int
    monsters: int  # how many of them show the monster
    without: int
    colours: int  # how many of those without the trigger word have the right colour,
    shapes: int  # the right shape by the lenient measure,
    strict_shapes: int  # by the strict one


def main() -> None:
    """Train, generate, count, write the results."""
    parser = argument_parser("preservation", __doc__, small="two steps and an image each, to check that it runs")
    parser.add_argument("--shares", nargs="+", type=float, default=SHARES, help="values of it (default: %(default)s)")
    arguments = parser.parse_args()
    extent = SMALL if arguments.small else FULL
    pipeline = load_pipeline(BASE)
    found = [count_images(pipeline, "the base alone", 0.0, extent)]
    with tempfile.TemporaryDirectory() as folder:
        for share in arguments.shares:
            tar, began = Path(folder) / f"{share}.tar", time.perf_counter()
            train(share, extent, tar)
            seconds = round(time.perf_counter() - began, 1)
            found.append(with_lora(pipeline, tar, f"preservation {share:g}", seconds, extent))
    about = {"machine": machine("torch", "diffusers", "peft"), "extent": asdict(extent), "training": TRAINING}
    numbers = {**about, "found": [asdict(each) for each in found]}
    path = write_results(numbers, name="preservation", output=arguments.output)
    print(f"wrote {path}\n\n{as_markdown(found)}")


def train(share: float, extent: Extent, tar: Path) -> None:
    """Run the demo's training with this share of preservation steps."""
    inputs = {**TRAINING, "preservation": share, "steps": extent.steps}
    flags = [part for name, value in inputs.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    command = [sys.executable, "-m", "script.train", str(ARCHIVE), *flags, "--output", str(tar)]
    subprocess.run(command, check=True, stdout=sys.__stderr__, env=os.environ | {"FLUX_BASE": "tiny"})


def with_lora(pipeline: FluxPipeline, tar: Path, arm: str, seconds: float, extent: Extent) -> Counts:
    """Count with a LoRA at lora_scale 1; the pipeline is unchanged afterwards."""
    lora, merger = read_lora(str(tar), named="lora_weights", readable=EVERYWHERE), LoraMerger(pipeline)
    merger.apply([AppliedLora(lora.digest, convert_lora(lora.tensors, FLUX1), 1.0, "lora_weights")])
    try:
        return count_images(pipeline, arm, seconds, extent)
    finally:
        merger.apply([])


def count_images(pipeline: FluxPipeline, arm: str, seconds: float, extent: Extent) -> Counts:
    """Count images that a pipeline generates in its current state."""
    subject = [is_monster(image) for prompt in WITH_TRIGGER for image in _images(pipeline, prompt, extent)]
    return Counts(arm, seconds, len(subject), sum(subject), **_count_world(pipeline, extent))


def _count_world(pipeline: FluxPipeline, extent: Extent) -> dict[str, int]:
    scenes = held_out_scenes()[: extent.scenes]
    images = [(scene, image) for scene in scenes for image in _of_scene(pipeline, scene, extent.seeds_without)]
    lenient = [(scene, classify(image)) for scene, image in images]
    return {
        "without": len(images),
        "colours": sum(scene.colour == found.colour for scene, found in lenient),
        "shapes": sum(scene.shape == found.shape for scene, found in lenient),
        "strict_shapes": sum(scene.shape == classify_strictly(image).shape for scene, image in images),
    }


def _images(pipeline: FluxPipeline, prompt: str, extent: Extent) -> list[Image.Image]:
    request = plain_request(prompt)
    return list(generate(pipeline, replace(request, num_outputs=extent.seeds_with_trigger, seed=FIRST_SEED)))


def _of_scene(pipeline: FluxPipeline, scene: Scene, seeds: int) -> list[Image.Image]:
    return list(generate(pipeline, plain_request(caption(scene), count=seeds)))


def as_markdown(found: Sequence[Counts]) -> str:
    """A table with a row for each arm."""
    titles = ["", "whole monsters with trigger", "without trigger: colour", "shape", "exact shape", "training"]
    rows = [
        [
            each.arm,
            f"{each.monsters} of {each.with_trigger}",
            f"{each.colours} of {each.without}",
            f"{each.shapes}",
            f"{each.strict_shapes}",
            f"{each.seconds:.0f} s",
        ]
        for each in found
    ]
    return table(titles, rows)


if __name__ == "__main__":
    main()
