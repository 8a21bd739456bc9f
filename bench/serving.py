"""What LoRAs cost in serving: to put on, to wear at another strength, to draw with; against stock diffusers and PEFT.

Both have the same base, LoRAs, prompts and seeds, in one process and in turn. Ours puts LoRAs into the weights; stock
loads each as an adapter, as the usual predictor does, and keeps it until it is taken off: another strength is a number
to it, and every step of every picture pays for the adapter.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from diffusers import FluxPipeline
from safetensors.torch import save_file

from bench.machine import machine
from lora.flux.loading import load_pipeline
from lora.serving.closet import Closet
from lora.serving.wardrobe import Wardrobe, Worn
from lora.training.learning.adapter import add_lora, lora_tensors
from lora.training.recipe.layers import block_layers
from weights.bases import find_base
from weights.references import open_lora

RESULTS = Path(__file__).parent / "results"
RANK, SPREAD = 16, 0.02
ROUNDS, STEPS = 7, 8
MOST_WORN = 3


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured."""

    rounds: int
    steps: int  # denoising steps of a picture
    side: int  # pixels


class Contender(Protocol):
    """A way to wear LoRAs."""

    pipeline: FluxPipeline

    def wear(self, scales: dict[Path, float]) -> None:
        """Wear these files at these strengths, and nothing else."""


class Ours:
    """As the predictor does: it keeps what it read, and looks whether the file is still the same."""

    def __init__(self, base: Path) -> None:
        self.pipeline = load_pipeline(base)
        self._wardrobe = Wardrobe(self.pipeline)
        self._closet = Closet()

    def wear(self, scales: dict[Path, float]) -> None:
        """Through the reference grammar, the closet and the wardrobe."""
        self._wardrobe.wear([self._worn(path, scale) for path, scale in scales.items()])

    def _worn(self, path: Path, scale: float) -> Worn:
        with open_lora(str(path), named="lora_weights") as file:
            kept = self._closet.lora(file.stamp, file.read)
        return Worn(kept.digest, kept.lora, scale, file.named)


class Stock:
    """As diffusers documents it."""

    def __init__(self, base: Path) -> None:
        self.pipeline = load_pipeline(base)
        self._worn: list[Path] = []

    def wear(self, scales: dict[Path, float]) -> None:
        """Adapters of the same files stay, and get new scales."""
        if list(scales) != self._worn:
            self.pipeline.unload_lora_weights()
            for path in scales:
                self.pipeline.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name=path.stem)
            self._worn = list(scales)
        if scales:
            self.pipeline.set_adapters([path.stem for path in scales], list(scales.values()))


def main() -> None:
    """Measure, print a table, keep the numbers."""
    parser = argparse.ArgumentParser(prog="script/bench serving", description=__doc__)
    parser.add_argument("--small", action="store_true", help="one round of small pictures, to see that it runs")
    parser.add_argument("--side", type=int, help="pixels of the pictures (default: the base's own)")
    parser.add_argument("--output", type=Path, help="where to write the numbers (default: in bench/results)")
    arguments = parser.parse_args()
    base = find_base()
    contenders: dict[str, Contender] = {"ours": Ours(base.path), "stock": Stock(base.path)}
    side = arguments.side or contenders["ours"].pipeline.vae.config.sample_size
    extent = Extent(1, 1, 64) if arguments.small else Extent(ROUNDS, STEPS, side)
    with tempfile.TemporaryDirectory() as folder:
        count = max(extent.rounds + 2, MOST_WORN)
        files = _random_loras(contenders["ours"].pipeline, Path(folder), count=count)
        seconds = {task: _in_turn(contenders, files, extent, task) for task in TASKS}
    output = arguments.output or RESULTS / f"serving-{base.name}-{date.today()}.json"
    about = machine("torch", "diffusers", "peft", "transformers", "safetensors")
    output.write_text(json.dumps({"machine": about, "extent": asdict(extent), "seconds": seconds}, indent=1) + "\n")
    print(f"wrote {output}\n\n{as_markdown(seconds)}")


def _random_loras(pipeline: FluxPipeline, folder: Path, *, count: int) -> list[Path]:
    """Files of LoRAs on all layers of the blocks, whose strengths mean nothing."""
    files = []
    for number in range(count):
        transformer = pipeline.transformer.__class__.from_config(pipeline.transformer.config)
        add_lora(transformer, layers=block_layers(transformer.config), rank=RANK, seed=number)
        generator = torch.Generator().manual_seed(number)
        tensors = {
            name: torch.randn(tensor.shape, generator=generator).mul(SPREAD).bfloat16()
            for name, tensor in lora_tensors(transformer).items()
        }
        files.append(folder / f"lora{number}.safetensors")
        save_file(tensors, files[-1])
    return files


Task = Callable[[Contender, list[Path], Extent, int], None]  # the last is the count of the round


def _first(contender: Contender, files: list[Path], _extent: Extent, count: int) -> None:
    contender.wear({files[count]: 1.0})


def _switch(contender: Contender, files: list[Path], _extent: Extent, count: int) -> None:
    contender.wear({files[count % 2]: 1.0})


def _rescale(contender: Contender, files: list[Path], _extent: Extent, count: int) -> None:
    contender.wear({files[0]: 1.0 - 0.01 * count})


def _rescale_and_draw(contender: Contender, files: list[Path], extent: Extent, count: int) -> None:
    _rescale(contender, files, extent, count)
    _draw(contender, files, extent, count)


def _draw(contender: Contender, _files: list[Path], extent: Extent, _count: int) -> None:
    contender.pipeline(
        "a photo of TOK",
        width=extent.side,
        height=extent.side,
        num_inference_steps=extent.steps,
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


def _in_turn(contenders: dict[str, Contender], files: list[Path], extent: Extent, name: str) -> dict[str, list[float]]:
    """The seconds of each round; one more goes before that counts for nothing."""
    timed = TASKS[name]
    found: dict[str, list[float]] = {contender: [] for contender in contenders}
    for contender in contenders.values():
        contender.wear(dict.fromkeys(files[: timed.worn], 1.0))
    for count in range(1, extent.rounds + 2):
        for key, contender in contenders.items():
            found[key].append(_seconds(partial(timed.task, contender, files, extent, count)))
    return {key: values[1:] for key, values in found.items()}


def _seconds(task: Callable[[], None]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    task()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def as_markdown(seconds: dict[str, dict[str, list[float]]]) -> str:
    """Medians, side by side."""
    lines = ["| what | stock diffusers + PEFT | ours | times as fast |", "|---|---|---|---|"]
    for task, found in seconds.items():
        ours, stock = (statistics.median(found[name]) for name in ("ours", "stock"))
        lines.append(f"| {task} | {1000 * stock:.0f} ms | {1000 * ours:.0f} ms | {stock / ours:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
