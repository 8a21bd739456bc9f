"""The stages of a run on a GPU machine that generate: an image without and with a LoRA, another LoRA, another scale;
with ours and with diffusers and PEFT."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import nn

from bench import generation
from bench.clocks import clock_readings, median_mhz
from bench.generation import EAGER, MERGED, Arm, Extent, Measurement
from bench.report import table
from bench.stages import Result, Stage
from bench.timing import seconds_each, wait_for
from lora.base.device import device
from lora.engine.compilation import graphs_compiled
from lora.families.placement import GENERATION_BYTES

IMAGES = "images"
WITHOUT = "image without LoRA"
GB = 1e9
# Seconds on an H100 or H200, estimated, not measured: a model, its text encoders, compiling, four images.
GENERATING = 50


def image_stages(extent: Extent, files: Sequence[Path], *, before: Callable[[], object]) -> list[Stage]:
    """The stages, ours first; `before` frees what other stages hold. The files are LoRAs."""

    def measure(arm: Arm) -> Iterator[Result]:
        before()
        yield Result(IMAGES, measure_images(arm, extent, list(files)))

    return [Stage(f"images, {arm.name}", "images", GENERATING, partial(measure, arm)) for arm in (MERGED, EAGER)]


def measure_images(arm: Arm, extent: Extent, files: list[Path]) -> dict[str, Any]:
    """A measurement of an arm with its own pipeline, first without a LoRA, then with one; and the predicted peak of
    ours. `ready` is the time of the first image, of few steps, including compiling."""
    here = device()
    if here.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    pipeline = generation.random_base(extent.sizes)
    predicted = predicted_bytes(pipeline) if arm is MERGED else None
    with clock_readings() as clock:
        began = time.perf_counter()
        applier = arm.make_applier(pipeline)
        generation.generate(applier, extent, extent.warm_up_steps)
        wait_for(here)
        ready = time.perf_counter() - began
        before = graphs_compiled()
        image = seconds_each(lambda _: generation.generate(applier, extent, extent.steps), here, rounds=extent.rounds)
        generation.prepare(arm, applier, extent, files[0])
        timed = generation.tasks(arm, applier, extent, files)
        seconds = {WITHOUT: image} | {what: seconds_each(task, here, rounds=extent.rounds) for what, task in timed}
    graphs, error = graphs_compiled() - before, generation.velocity_error(applier, extent)
    peak = torch.cuda.max_memory_allocated() if here.type == "cuda" else None
    measured = Measurement(arm.name, ready, seconds, graphs, error, peak, median_mhz(clock))
    return asdict(measured) | {"predicted": predicted}


def predicted_bytes(pipeline: DiffusionPipeline) -> int:
    """What the predictor expects to need of a GPU: all weights, and room to generate. Its copies of the weights that
    LoRAs are merged into are not counted, as they take only memory that is free."""
    models = [each for each in pipeline.components.values() if isinstance(each, nn.Module)]
    return GENERATION_BYTES + sum(weight.nbytes for model in models for weight in model.parameters())


def as_markdown(measured: list[dict[str, Any]]) -> str:
    """A table with a row for each task and a column for each arm."""
    arms = {each["arm"]: each for each in measured}
    rows = [_row(task, arms) for task in measured[0]["seconds"]]
    peaks, predicted = (
        [_gigabytes(each.get(key)) for each in arms.values()] for key in ("peak_allocated", "predicted")
    )
    rows.append(["ready, with compiling", *(f"{each['ready']:.1f} s" for each in arms.values()), ""])
    rows.append(["peak memory", *peaks, ""])
    rows.append(["predicted, without copies of merged weights", *predicted, ""])
    rows.append(["graphs compiled during timing", *(str(each["graphs"]) for each in arms.values()), ""])
    return table(["task", *arms, f"speedup over {EAGER.name}"], rows)


def _gigabytes(size: float | None) -> str:
    return f"{size / GB:.1f} GB" if size else ""


def _row(task: str, arms: dict[str, dict[str, Any]]) -> list[str]:
    medians = {name: statistics.median(each["seconds"][task]) for name, each in arms.items() if task in each["seconds"]}
    is_complete = {EAGER.name, MERGED.name} <= medians.keys()
    ratio = f"{medians[EAGER.name] / medians[MERGED.name]:.2f}" if is_complete else ""
    return [task, *(f"{1000 * medians[name]:.0f} ms" if name in medians else "" for name in arms), ratio]
