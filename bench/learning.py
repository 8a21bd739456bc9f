"""What a training teaches and what it costs: our presets against a plain loop, on the embedded base, in paired runs.

Each run trains one arm on one figure with one seed. At some of its steps it is asked for the loss on new pictures of
the figure and on the base's own world, at fixed noise and sigmas; at half and at the end it also draws: with the
trigger word, to see how near the figure is, and without, to see what else has moved. Every arm has the same pictures,
captions, batch size and number of steps. A run that ends is kept in a file of JSON lines, so that a benchmark that was
stopped goes on where it was.
"""

import argparse
import contextlib
import functools
import itertools
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import diffusers.utils.logging
import torch
import transformers.utils.logging
from diffusers import FluxPipeline

from bench.arms import ARMS, crops_of_arm, settings_of, train_arm
from bench.concepts import CONCEPTS, TRAINING_IMAGES, TRAINING_SEED
from bench.machine import machine
from bench.measures import Extent, Ground, examples_of, paired, standard_error
from bench.report import RESULTS, argument_parser, table
from lora.dataset.encoding import EncodedDataset
from lora.flux.prompt import encode_prompt
from lora.training.recipe.sigmas import Shift
from script.tiny_flux.captions import TRIGGER
from weights.bases import WEIGHTS

BASE = WEIGHTS / "tiny-flux"
CHECKPOINTS, DRAWN_AT = (0.1, 0.25, 0.5, 0.75, 1.0), (0.5, 1.0)  # shares of the steps
SEEDS, STEPS = (1, 2, 3), 1000  # the peer's preset has 1000 steps


FULL = Extent(STEPS, held_out=10, world=8, drawn=5, inference_steps=10, references=80)
SMALL = Extent(3, held_out=1, world=1, drawn=1, inference_steps=2, references=2)


Run = dict[str, Any]  # as it is kept in JSON


@dataclass(frozen=True, slots=True)
class Job:
    """One run."""

    concept: str
    seed: int
    arm: str
    extent: Extent
    pictures: Path | None  # a folder for what was drawn


def main() -> None:
    """Run what is not done yet, print the tables, keep the numbers."""
    arguments = _arguments()
    output = arguments.output or RESULTS / f"learning-{date.today()}.json"
    kept = output.parent / "learning.runs.jsonl"
    extent = SMALL if arguments.small else replace(FULL, steps=arguments.steps)
    names, seeds = (["monster"], SEEDS[:1]) if arguments.small else (arguments.concepts, SEEDS[: arguments.seeds])
    jobs = [
        Job(name, seed, arm, extent, arguments.pictures)
        for seed, name, arm in itertools.product(seeds, names, arguments.arms)
    ]
    runs = all_runs(jobs, kept, workers=arguments.workers)
    about = machine("torch", "diffusers", "peft", "transformers", "pillow", "numpy")
    output.write_text(json.dumps({"machine": about, "extent": asdict(extent), "runs": runs}, indent=1) + "\n")
    kept.unlink()
    print(f"wrote {output}\n\n{as_markdown(runs)}")


def all_runs(jobs: list[Job], kept: Path, *, workers: int) -> list[Run]:
    """The results of all jobs in their order; those in the file `kept` are not run again, new ones are added to it."""
    done = _done(kept)
    missing = [job for job in jobs if _key(named(job)) not in done]
    os.environ["OMP_NUM_THREADS"] = "1"  # of the workers, whose torch is yet to start
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawned) as pool, kept.open("a") as file:
        for count, future in enumerate(as_completed([pool.submit(run, job) for job in missing]), start=1):
            result = future.result()
            done[_key(result)] = result
            file.write(json.dumps(result) + "\n")
            file.flush()
            which = f"{result['concept']}, seed {result['seed']}, {result['arm']}: {result['seconds']:.0f} s"
            print(f"  {count} of {len(missing)}: {which}", file=sys.stderr)
    return [done[_key(named(job))] for job in jobs]


def _done(kept: Path) -> dict[str, Run]:
    """The runs in a file whose lines may have been cut short when a benchmark was stopped; leaves the whole ones."""
    runs = []
    for line in kept.read_text().splitlines() if kept.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            runs.append(json.loads(line))
    kept.write_text("".join(json.dumps(run) + "\n" for run in runs))
    return {_key(run): run for run in runs}


def run(job: Job) -> Run:
    """Train one arm and measure it on the way."""
    torch.set_num_threads(1)
    began = time.perf_counter()
    concept, pipeline = CONCEPTS[job.concept], _base()
    ground = _ground(job.concept, job.extent)
    views = crops_of_arm(job.arm)
    examples = examples_of(concept, TRAINING_IMAGES, TRAINING_SEED, pipeline, views=views)
    dataset = EncodedDataset(tuple(examples), dropped=encode_prompt(pipeline, TRIGGER))
    found = {0: ground.before}

    def take(step: int) -> None:
        strip = job.pictures / f"{job.concept}-{job.seed}-{job.arm}-{step:04}.png" if job.pictures else None
        found[step] = ground.measured(pipeline, draws=step in job.extent.at(DRAWN_AT), pictures=strip)

    train_arm(
        job.arm,
        pipeline.transformer,
        dataset,
        shift=Shift.of(pipeline.scheduler),
        steps=job.extent.steps,
        seed=job.seed,
        at=job.extent.at(CHECKPOINTS),
        take=take,
    )
    seconds = round(time.perf_counter() - began, 1)
    return named(job) | {"seconds": seconds, "real": ground.real, "at": {str(step): it for step, it in found.items()}}


@dataclass(frozen=True, slots=True)
class Measure:
    """A column of the tables: what it says of a run at a step, by picture."""

    title: str
    of: Callable[[Run, str], list[float]]
    wanted: str  # which way is good


def closed(run: Run, step: str) -> list[float]:
    """The share of the gap between the bare base's loss on the figure and on its own world that is gone, in percent."""
    before, after = run["at"]["0"], run["at"][step]
    gap = statistics.fmean(before["held_out"]) - statistics.fmean(before["world"])
    return [100 * (one - other) / gap for one, other in zip(before["held_out"], after["held_out"], strict=True)]


def world_rise(run: Run, step: str) -> list[float]:
    """How much the loss on the base's own world has risen, in percent of what it was."""
    before, after = run["at"]["0"]["world"], run["at"][step]["world"]
    return [100 * (other - one) / statistics.fmean(before) for one, other in zip(before, after, strict=True)]


def drawn(name: str, *, times: float = 100) -> Callable[[Run, str], list[float]]:
    """What was measured on drawn pictures."""
    return lambda run, step: [times * value for value in run["at"][step][name]]


MEASURES = (
    Measure("gap closed, %", closed, "higher"),
    Measure("world's loss, + %", world_rise, "lower"),
    Measure("pictures without trigger, mean squared change x 1000", drawn("change", times=1000), "lower"),
    Measure("distance of colours x 100", drawn("colours"), "lower"),
    Measure("distance of form x 100", drawn("form"), "lower"),
)


def as_markdown(runs: list[Run]) -> str:
    """The tables: over the steps, at the end, and arm against arm."""
    arms = list(dict.fromkeys(run["arm"] for run in runs))
    end = str(runs[0]["extent"]["steps"])
    over = [_over_steps(measure, runs, arms) for measure in MEASURES[:2]]
    against = [_against(ours, theirs, runs, end) for ours, theirs in itertools.combinations(reversed(arms), 2)]
    return "\n\n".join([*over, _at_end(runs, arms, end), *against])


def _over_steps(measure: Measure, runs: list[Run], arms: list[str]) -> str:
    """Mean and standard error between runs."""
    steps = [step for step in runs[0]["at"] if step != "0"]
    rows = [[arm, *(_mean_of_runs(measure, runs, arm, step) for step in steps)] for arm in arms]
    return table([f"{measure.title}, at step", *steps], rows)


def _at_end(runs: list[Run], arms: list[str], end: str) -> str:
    rows = [[arm, *(_mean_of_runs(measure, runs, arm, end) for measure in MEASURES)] for arm in arms]
    base = [_spread([statistics.fmean(measure.of(run, "0")) for run in runs]) for measure in MEASURES]
    real = [_spread([100 * statistics.fmean(run["real"][name]) for run in runs]) for name in ("colours", "form")]
    titles = [f"{measure.title} ({measure.wanted} is better)" for measure in MEASURES]
    return table([f"at step {end}", *titles], [*rows, ["the bare base", *base], ["real renders", "", "", "", *real]])


def _against(ours: str, theirs: str, runs: list[Run], end: str) -> str:
    """Paired by figure, seed and picture."""
    rows = []
    for measure in MEASURES:
        by_arm = [{_pair(run): measure.of(run, end) for run in runs if run["arm"] == arm} for arm in (ours, theirs)]
        found = paired(*by_arm)
        errors = [f"{found.error_by_picture:.2f}", f"{found.error_by_run:.2f}"]
        rows.append([measure.title, f"{found.mean:+.2f}", *errors, _said(found.verdict(), wanted=measure.wanted)])
    return table([f"{ours} minus {theirs}", "mean", "error by picture", "error by run", f"{ours} is"], rows)


def _said(verdict: str, *, wanted: str) -> str:
    if verdict not in ("higher", "lower"):
        return verdict
    return "better" if verdict == wanted else "worse"


def _pair(run: Run) -> tuple[str, int]:
    return run["concept"], run["seed"]


def _mean_of_runs(measure: Measure, runs: list[Run], arm: str, step: str) -> str:
    return _spread([statistics.fmean(measure.of(run, step)) for run in runs if run["arm"] == arm])


def _spread(means: list[float]) -> str:
    mean = f"{statistics.fmean(means):.2f}"
    return f"{mean} ± {standard_error(means):.2f}" if len(means) > 1 else mean


def named(job: Job) -> Run:
    """What says which run it is."""
    return {
        "concept": job.concept,
        "seed": job.seed,
        "arm": job.arm,
        "settings": settings_of(job.arm),
        "extent": asdict(job.extent),
    }


def _key(run: Run) -> str:
    """What makes two runs the same."""
    return json.dumps([run[name] for name in ("concept", "seed", "arm", "settings", "extent")], sort_keys=True)


@functools.cache
def _ground(concept: str, extent: Extent) -> Ground:
    return Ground(CONCEPTS[concept], extent, _base())


def _base() -> FluxPipeline:
    """The embedded base, in fp32 on the CPU wherever this runs."""
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    pipeline = FluxPipeline.from_pretrained(BASE, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.transformer.requires_grad_(False)
    return pipeline


def _arguments() -> argparse.Namespace:
    parser = argument_parser("learning", __doc__, small="one figure, one seed, three steps, to see that it runs")
    parser.add_argument("--steps", type=int, default=STEPS, help="of each training (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="trainings of each (default: %(default)s)")
    parser.add_argument("--concepts", nargs="+", choices=CONCEPTS, default=list(CONCEPTS), help="figures to teach")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="contenders")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each (default: %(default)s)")
    parser.add_argument("--pictures", type=Path, help="a folder for what is drawn, a strip for each run and step")
    return parser.parse_args()


if __name__ == "__main__":
    main()
