"""What LoRAs cost in serving: to put on, to wear at another strength, to draw with; against stock diffusers and PEFT.

With FLUX_BASE, on that base: both have the same LoRAs, prompts and seeds, in one process and in turn. Ours puts LoRAs
into the weights; stock loads each as an adapter, as the usual predictor does, and keeps it until it is taken off:
another strength is a number to it, and every step of every picture pays for the adapter. Without FLUX_BASE, on random
weights of FLUX.1's shape, and against compiled models, too (bench/generation.py).
"""

import os
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from diffusers import FluxPipeline
from safetensors.torch import save_file

from bench import generation as drawing
from bench.lora_appliers import LoraApplier, Ours, Stock
from bench.machine import machine
from bench.random_flux import random_lora
from bench.report import argument_parser, keep, table
from bench.timing import seconds_each
from lora.flux.loading import device, load_pipeline
from lora.flux.prompt import text_tokens
from lora.training.recipe.layers import block_layers
from weights.bases import SETTING, find_base

RANK = 16
ROUNDS, STEPS = 7, 8
MOST_WORN = 3


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured."""

    rounds: int
    steps: int  # denoising steps of a picture
    side: int  # pixels


def main() -> None:
    """Measure, keep the numbers, print a table."""
    parser = argument_parser("serving", __doc__, small="one round of small pictures, to see that it runs")
    parser.add_argument("--side", type=int, help="pixels of the pictures of a base (default: the base's own)")
    arguments = parser.parse_args()
    if not os.environ.get(SETTING):
        drawing.compare(drawing.small() if arguments.small else drawing.FULL, output=arguments.output)
        return
    base = find_base()
    wearers: dict[str, LoraApplier] = {"ours": Ours(load_pipeline(base.path)), "stock": Stock(load_pipeline(base.path))}
    side = arguments.side or wearers["ours"].pipeline.vae.config.sample_size
    extent = Extent(1, 1, 64) if arguments.small else Extent(ROUNDS, STEPS, side)
    with tempfile.TemporaryDirectory() as folder:
        count = max(extent.rounds + 2, MOST_WORN)
        files = _random_loras(wearers["ours"].pipeline, Path(folder), count=count)
        seconds = {task: _in_turn(wearers, files, extent, task) for task in TASKS}
    about = machine("torch", "diffusers", "peft", "transformers", "safetensors")
    numbers = {"machine": about, "extent": asdict(extent), "seconds": seconds}
    path = keep(numbers, name=f"serving-{base.name}", output=arguments.output)
    print(f"wrote {path}\n\n{as_markdown(seconds)}")


def _random_loras(pipeline: FluxPipeline, folder: Path, *, count: int) -> list[Path]:
    """Files of LoRAs on all layers of the blocks, whose strengths mean nothing."""
    layers = block_layers(pipeline.transformer.config)
    files = [folder / f"lora{number}.safetensors" for number in range(count)]
    for number, file in enumerate(files):
        save_file(random_lora(layers, rank=RANK, seed=number), file)
    return files


Task = Callable[[LoraApplier, list[Path], Extent, int], None]  # the last is the count of the round


def _first(wearer: LoraApplier, files: list[Path], _extent: Extent, count: int) -> None:
    wearer.wear({files[count]: 1.0})


def _switch(wearer: LoraApplier, files: list[Path], _extent: Extent, count: int) -> None:
    wearer.wear({files[count % 2]: 1.0})


def _rescale(wearer: LoraApplier, files: list[Path], _extent: Extent, count: int) -> None:
    wearer.wear({files[0]: 1.0 - 0.01 * count})


def _rescale_and_draw(wearer: LoraApplier, files: list[Path], extent: Extent, count: int) -> None:
    _rescale(wearer, files, extent, count)
    _draw(wearer, files, extent, count)


def _draw(wearer: LoraApplier, _files: list[Path], extent: Extent, _count: int) -> None:
    wearer.pipeline(
        "a photo of TOK",
        width=extent.side,
        height=extent.side,
        num_inference_steps=extent.steps,
        max_sequence_length=text_tokens(wearer.pipeline),
        generator=torch.Generator().manual_seed(0),
    )


@dataclass(frozen=True, slots=True)
class Timed:
    """Something to be timed, with so many LoRAs worn before it."""

    worn: int
    task: Task


TASKS = {
    "a LoRA that was never worn": Timed(1, _first),
    "a LoRA that was worn before": Timed(1, _switch),
    "another scale": Timed(1, _rescale),
    "a picture without": Timed(0, _draw),
    "a picture with 1 LoRA": Timed(1, _draw),
    "a picture with 3 LoRAs": Timed(MOST_WORN, _draw),
    "another scale and a picture": Timed(1, _rescale_and_draw),
}


def _in_turn(wearers: dict[str, LoraApplier], files: list[Path], extent: Extent, name: str) -> dict[str, list[float]]:
    """The seconds of each round; one more goes before that counts for nothing."""
    timed = TASKS[name]
    found: dict[str, list[float]] = {wearer: [] for wearer in wearers}
    for wearer in wearers.values():
        wearer.wear(dict.fromkeys(files[: timed.worn], 1.0))
    for count in range(1, extent.rounds + 2):
        for key, wearer in wearers.items():
            task = partial(timed.task, wearer, files, extent, count)
            found[key] += _seconds(task)
    return {key: values[1:] for key, values in found.items()}


def _seconds(task: Callable[[], None]) -> list[float]:
    return seconds_each(lambda _: task(), device(), rounds=1)


def as_markdown(seconds: dict[str, dict[str, list[float]]]) -> str:
    """Medians, side by side."""
    rows = []
    for task, found in seconds.items():
        ours, stock = (statistics.median(found[name]) for name in ("ours", "stock"))
        rows.append([task, f"{1000 * stock:.0f} ms", f"{1000 * ours:.0f} ms", f"{stock / ours:.2f}"])
    return table(["what", "stock diffusers + PEFT", "ours", "times as fast"], rows)


if __name__ == "__main__":
    main()
