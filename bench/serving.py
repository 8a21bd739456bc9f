"""What LoRAs cost in serving: to apply, to apply at another scale, to generate with; compared with stock diffusers and
PEFT.

With FLUX_BASE, on that base: both have the same LoRAs, prompts and seeds, in one process and in turn. Ours merges LoRAs
into the weights. Stock loads each as an adapter, as the usual predictor does, and keeps it until it is removed: another
scale is only a number, and every step of every image pays for the adapter. Without FLUX_BASE, on random weights of the
shape that --base names, and compared with compiled models, too (bench/generation.py).
"""

import os
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from safetensors.torch import save_file

from bench import generation
from bench.lora_appliers import LoraApplier, Ours, Stock
from bench.machine import machine
from bench.random_flux import BASES, DEFAULT_BASE, random_lora
from bench.report import argument_parser, table, write_results
from bench.timing import seconds_each
from lora.base.device import device
from lora.families.loading import load_pipeline
from lora.families.registry import family_of_model
from lora.training.recipe.layers import block_layers
from weights.bases import SETTING, find_base

RANK = 16
ROUNDS, STEPS = 7, 8
MAX_APPLIED = 3


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured."""

    rounds: int
    steps: int  # denoising steps of an image
    side: int  # pixels


def main() -> None:
    """Measure, write the results, print a table."""
    parser = argument_parser("serving", __doc__, small="one round of small images, to check that it runs")
    parser.add_argument("--side", type=int, help="side of the images in pixels (default: that of the base)")
    parser.add_argument(
        "--base", choices=BASES, help=f"of the random weights, without {SETTING} (default: {DEFAULT_BASE})"
    )
    arguments = parser.parse_args()
    if not os.environ.get(SETTING):
        generation.compare(arguments.base or DEFAULT_BASE, is_small=arguments.small, output=arguments.output)
        return
    if arguments.base:
        parser.error(
            f"--base {arguments.base} is for random weights, and {SETTING} is {os.environ[SETTING]}: unset one"
        )
    base = find_base()
    ours, stock = Ours(load_pipeline(base.path)), Stock(load_pipeline(base.path))
    appliers: dict[str, LoraApplier] = {"ours": ours, "stock": stock}
    side = arguments.side or appliers["ours"].pipeline.vae.config.sample_size
    extent = Extent(1, 1, 64) if arguments.small else Extent(ROUNDS, STEPS, side)
    with tempfile.TemporaryDirectory() as folder:
        count = max(extent.rounds + 2, MAX_APPLIED)
        files = _random_loras(appliers["ours"].pipeline, Path(folder), count=count)
        seconds = {task: _in_turn(appliers, files, extent, task) for task in TASKS}
    about = machine("torch", "diffusers", "peft", "transformers", "safetensors")
    numbers = {"machine": about, "extent": asdict(extent), "seconds": seconds}
    path = write_results(numbers, name=f"serving-{base.name}", output=arguments.output)
    print(f"wrote {path}\n\n{as_markdown(seconds)}")


def _random_loras(pipeline: DiffusionPipeline, folder: Path, *, count: int) -> list[Path]:
    """Files of LoRAs on all layers of the blocks, with arbitrary strengths."""
    layers = block_layers(pipeline.transformer.config, type(pipeline.transformer))
    files = [folder / f"lora{number}.safetensors" for number in range(count)]
    for number, file in enumerate(files):
        save_file(random_lora(layers, rank=RANK, seed=number), file)
    return files


Task = Callable[[LoraApplier, list[Path], Extent, int], None]  # the last is the number of the round


def _first(applier: LoraApplier, files: list[Path], _extent: Extent, count: int) -> None:
    applier.apply({files[count]: 1.0})


def _switch(applier: LoraApplier, files: list[Path], _extent: Extent, count: int) -> None:
    applier.apply({files[count % 2]: 1.0})


def _rescale(applier: LoraApplier, files: list[Path], _extent: Extent, count: int) -> None:
    applier.apply({files[0]: 1.0 - 0.01 * count})


def _rescale_and_generate(applier: LoraApplier, files: list[Path], extent: Extent, count: int) -> None:
    _rescale(applier, files, extent, count)
    _generate(applier, files, extent, count)


def _generate(applier: LoraApplier, _files: list[Path], extent: Extent, _count: int) -> None:
    applier.pipeline(
        prompt="a photo of TOK",
        width=extent.side,
        height=extent.side,
        num_inference_steps=extent.steps,
        max_sequence_length=family_of_model(applier.pipeline).text.length(applier.pipeline),
        generator=torch.Generator().manual_seed(0),
    )


@dataclass(frozen=True, slots=True)
class TimedTask:
    """A task to time, with `applied` LoRAs applied before it."""

    applied: int
    task: Task


TASKS = {
    "a new LoRA": TimedTask(1, _first),
    "a LoRA that was applied before": TimedTask(1, _switch),
    "another scale": TimedTask(1, _rescale),
    "an image without LoRA": TimedTask(0, _generate),
    "an image with 1 LoRA": TimedTask(1, _generate),
    "an image with 3 LoRAs": TimedTask(MAX_APPLIED, _generate),
    "another scale and an image": TimedTask(1, _rescale_and_generate),
}


def _in_turn(appliers: dict[str, LoraApplier], files: list[Path], extent: Extent, name: str) -> dict[str, list[float]]:
    """The seconds of each round, after one that is not counted."""
    timed = TASKS[name]
    found: dict[str, list[float]] = {contender: [] for contender in appliers}
    for applier in appliers.values():
        applier.apply(dict.fromkeys(files[: timed.applied], 1.0))
    for count in range(1, extent.rounds + 2):
        for contender, applier in appliers.items():
            task = partial(timed.task, applier, files, extent, count)
            found[contender] += _seconds(task)
    return {contender: values[1:] for contender, values in found.items()}


def _seconds(task: Callable[[], None]) -> list[float]:
    return seconds_each(lambda _: task(), device(), rounds=1)


def as_markdown(seconds: dict[str, dict[str, list[float]]]) -> str:
    """A table of medians, side by side."""
    rows = []
    for task, found in seconds.items():
        ours, stock = (statistics.median(found[name]) for name in ("ours", "stock"))
        rows.append([task, f"{1000 * stock:.0f} ms", f"{1000 * ours:.0f} ms", f"{stock / ours:.2f}"])
    return table(["task", "stock diffusers + PEFT", "ours", "speedup"], rows)


if __name__ == "__main__":
    main()
