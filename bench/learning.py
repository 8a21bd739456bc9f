"""How well a training learns, and what it costs: our presets compared with a plain loop, on the embedded base, in
paired runs.

Each run trains one arm on one figure with one seed. At some steps it measures the loss on new images of the figure and
on the base's own world, at fixed noise and sigmas. At half of the steps and at the end it also generates images: with
the trigger word, to see how close they are to the figure, and without, to see what else has changed. All arms have the
same images, captions, batch size and number of steps. Completed runs are written to a file of JSON lines, so that an
interrupted benchmark can resume.
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

from bench.arms import ARMS, DEFAULT_ARMS, Material, crops_of_arm, settings_of, train_arm, word_of_arm
from bench.concepts import CONCEPTS, TRAINING_IMAGES, TRAINING_SEED, Concept
from bench.machine import machine
from bench.measures import Evaluation, Extent, examples_of, paired, standard_error
from bench.report import RESULTS, argument_parser, table
from lora.dataset.encoding import EncodedDataset
from lora.flux.prompt import encode_prompt
from lora.training.recipe.neutral import neutral_prompts
from lora.training.recipe.sigmas import Shift
from script.tiny_flux.captions import TRIGGER
from weights.bases import WEIGHTS

BASE = WEIGHTS / "tiny-flux"
CHECKPOINTS, GENERATED_AT = (0.1, 0.25, 0.5, 0.75, 1.0), (1.0,)  # fractions of the steps
SEEDS, STEPS = (1, 2, 3), 1000  # the peer's preset has 1000 steps


FULL = Extent(STEPS, held_out=10, world=8, drawn=5, scenes=20, inference_steps=10, references=80)
SMALL = Extent(3, held_out=1, world=1, drawn=1, scenes=1, inference_steps=2, references=2)


Run = dict[str, Any]  # as it is stored in JSON


@dataclass(frozen=True, slots=True)
class Job:
    """One run."""

    concept: str
    seed: int
    arm: str
    extent: Extent
    strips: Path | None  # a folder for generated images


def main() -> None:
    """Run what is missing, write the results, print the tables."""
    arguments = _arguments()
    output = arguments.output or RESULTS / f"learning-{date.today()}.json"
    kept = output.parent / "learning.runs.jsonl"
    extent = SMALL if arguments.small else replace(FULL, steps=arguments.steps, scenes=arguments.scenes)
    names, seeds = (["monster"], SEEDS[:1]) if arguments.small else (arguments.concepts, SEEDS[: arguments.seeds])
    jobs = [
        Job(name, seed, arm, extent, arguments.images)
        for seed, name, arm in itertools.product(seeds, names, arguments.arms)
    ]
    runs = all_runs(jobs, kept, workers=arguments.workers)
    about = machine("torch", "diffusers", "peft", "transformers", "pillow", "numpy")
    output.write_text(json.dumps({"machine": about, "extent": asdict(extent), "runs": runs}, indent=1) + "\n")
    kept.unlink()
    print(f"wrote {output}\n\n{as_markdown(runs)}")


def all_runs(jobs: list[Job], kept: Path, *, workers: int) -> list[Run]:
    """The results of all jobs in order; those in the file `kept` are not run again, and new ones are appended to it."""
    done = _done(kept)
    missing = [job for job in jobs if _key(identity_of(job)) not in done]
    os.environ["OMP_NUM_THREADS"] = "1"  # for the process that the workers are forked from, which imports torch later
    forking = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(workers, mp_context=forking) as pool, kept.open("a") as file:
        for count, future in enumerate(as_completed([pool.submit(run, job) for job in missing]), start=1):
            result = future.result()
            done[_key(result)] = result
            file.write(json.dumps(result) + "\n")
            file.flush()
            which = f"{result['concept']}, seed {result['seed']}, {result['arm']}: {result['seconds']:.0f} s"
            print(f"  {count} of {len(missing)}: {which}", file=sys.stderr)
    return [done[_key(identity_of(job))] for job in jobs]


def _done(kept: Path) -> dict[str, Run]:
    """The runs in a file; lines that are incomplete, after an interruption, are removed from it."""
    runs = []
    for line in kept.read_text().splitlines() if kept.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            runs.append(json.loads(line))
    kept.write_text("".join(json.dumps(run) + "\n" for run in runs))
    return {_key(run): run for run in runs}


def run(job: Job) -> Run:
    """Train one arm and measure it at its steps."""
    torch.set_num_threads(1)
    began = time.perf_counter()
    concept, pipeline = CONCEPTS[job.concept], _base()
    evaluation = _evaluation(job.concept, job.extent)
    material = _material(job.arm, concept, pipeline)
    found = {0: evaluation.before}

    def measure(step: int) -> None:
        strip = job.strips / f"{job.concept}-{job.seed}-{job.arm}-{step:04}.png" if job.strips else None
        found[step] = evaluation.measure(pipeline, generates=step in job.extent.at(GENERATED_AT), strip=strip)

    train_arm(
        job.arm,
        pipeline.transformer,
        material,
        shift=Shift.of(pipeline.scheduler),
        steps=job.extent.steps,
        seed=job.seed,
        at=job.extent.at(CHECKPOINTS),
        on_step=measure,
    )
    seconds = round(time.perf_counter() - began, 1)
    at = {str(step): measures for step, measures in found.items()}
    return identity_of(job) | {"seconds": seconds, "real": evaluation.real, "at": at}


def _material(arm: str, concept: Concept, pipeline: FluxPipeline) -> Material:
    crops, word = crops_of_arm(arm), word_of_arm(arm)
    examples = examples_of(concept, TRAINING_IMAGES, TRAINING_SEED, pipeline, crops=crops)
    asked = [] if word is None else examples_of(concept, TRAINING_IMAGES, TRAINING_SEED, pipeline, word=word)
    neutral = tuple(encode_prompt(pipeline, prompt) for prompt in neutral_prompts(BASE))
    dataset = EncodedDataset(tuple(examples), dropped=encode_prompt(pipeline, TRIGGER), neutral=neutral)
    return Material(dataset, tuple(asked))


@dataclass(frozen=True, slots=True)
class Measure:
    """A column of the tables: values of a run at a step, by image."""

    title: str
    of: Callable[[Run, str], list[float]]
    better: str  # the better direction


def closed(run: Run, step: str) -> list[float]:
    """How much of the gap between the bare base's losses on the figure and on its own world is closed, in percent."""
    before, after = run["at"]["0"], run["at"][step]
    gap = statistics.fmean(before["held_out"]) - statistics.fmean(before["world"])
    return [100 * (one - other) / gap for one, other in zip(before["held_out"], after["held_out"], strict=True)]


def world_rise(run: Run, step: str) -> list[float]:
    """The rise of the loss on the base's own world, in percent of its initial value."""
    before, after = run["at"]["0"]["world"], run["at"][step]["world"]
    return [100 * (other - one) / statistics.fmean(before) for one, other in zip(before, after, strict=True)]


def of_images(name: str, *, times: float = 100) -> Callable[[Run, str], list[float]]:
    """A measure of generated images."""
    return lambda run, step: [times * value for value in run["at"][step][name]]


MEASURES = (
    Measure("gap closed, %", closed, "higher"),
    Measure("rise of the loss on the world, %", world_rise, "lower"),
    Measure("images without trigger, mean squared change x 1000", of_images("change", times=1000), "lower"),
    Measure("images without trigger with the right colour, %", of_images("right_colour"), "higher"),
    Measure("images without trigger with the right shape, %", of_images("right_shape"), "higher"),
    Measure("images without trigger with the exact shape, %", of_images("exact_shape"), "higher"),
    Measure("colour distance x 100", of_images("colours"), "lower"),
    Measure("form distance x 100", of_images("form"), "lower"),
)


def as_markdown(runs: list[Run]) -> str:
    """The tables: over the steps, at the end, and each pair of arms."""
    arms = list(dict.fromkeys(run["arm"] for run in runs))
    end = str(runs[0]["extent"]["steps"])
    over = [_over_steps(measure, runs, arms) for measure in MEASURES[:2]]
    comparisons = [_compare(ours, theirs, runs, end) for ours, theirs in itertools.combinations(reversed(arms), 2)]
    return "\n\n".join([*over, _at_end(runs, arms, end), *comparisons])


def _over_steps(measure: Measure, runs: list[Run], arms: list[str]) -> str:
    """A table of means and standard errors over runs, at each step."""
    steps = [step for step in runs[0]["at"] if step != "0"]
    rows = [[arm, *(_mean_of_runs(measure, runs, arm, step) for step in steps)] for arm in arms]
    return table([f"{measure.title}, at step", *steps], rows)


def _at_end(runs: list[Run], arms: list[str], end: str) -> str:
    rows = [[arm, *(_mean_of_runs(measure, runs, arm, end) for measure in MEASURES)] for arm in arms]
    base = [_spread([statistics.fmean(measure.of(run, "0")) for run in runs]) for measure in MEASURES]
    real = [_spread([100 * statistics.fmean(run["real"][name]) for run in runs]) for name in ("colours", "form")]
    titles = [f"{measure.title} ({measure.better} is better)" for measure in MEASURES]
    return table(
        [f"at step {end}", *titles], [*rows, ["base without LoRA", *base], ["real renders", "", "", "", *real]]
    )


def _compare(ours: str, theirs: str, runs: list[Run], end: str) -> str:
    """A table of differences between two arms, paired by figure, seed and image."""
    rows = []
    for measure in MEASURES:
        by_arm = [{_run_id(run): measure.of(run, end) for run in runs if run["arm"] == arm} for arm in (ours, theirs)]
        found = paired(*by_arm)
        errors = [f"{found.error_by_image:.2f}", f"{found.error_by_run:.2f}"]
        conclusion = _as_better_or_worse(found.conclusion(), better=measure.better)
        rows.append([measure.title, f"{found.mean:+.2f}", *errors, conclusion])
    return table([f"{ours} minus {theirs}", "mean", "error by image", "error by run", f"{ours} is"], rows)


def _as_better_or_worse(conclusion: str, *, better: str) -> str:
    if conclusion not in ("higher", "lower"):
        return conclusion
    return "better" if conclusion == better else "worse"


def _run_id(run: Run) -> tuple[str, int]:
    return run["concept"], run["seed"]


def _mean_of_runs(measure: Measure, runs: list[Run], arm: str, step: str) -> str:
    return _spread([statistics.fmean(measure.of(run, step)) for run in runs if run["arm"] == arm])


def _spread(means: list[float]) -> str:
    mean = f"{statistics.fmean(means):.2f}"
    return f"{mean} ± {standard_error(means):.2f}" if len(means) > 1 else mean


def identity_of(job: Job) -> Run:
    """The fields that identify a run."""
    return {
        "concept": job.concept,
        "seed": job.seed,
        "arm": job.arm,
        "settings": settings_of(job.arm),
        "extent": asdict(job.extent),
    }


def _key(run: Run) -> str:
    """A key that is equal for equal runs."""
    return json.dumps([run[name] for name in ("concept", "seed", "arm", "settings", "extent")], sort_keys=True)


@functools.cache
def _evaluation(concept: str, extent: Extent) -> Evaluation:
    return Evaluation(CONCEPTS[concept], extent, _base())


def _base() -> FluxPipeline:
    """The embedded base, in fp32 on the CPU of any machine."""
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    pipeline = FluxPipeline.from_pretrained(BASE, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.transformer.requires_grad_(False)
    return pipeline


def _arguments() -> argparse.Namespace:
    parser = argument_parser("learning", __doc__, small="one figure, one seed, three steps, to check that it runs")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of each training (default: %(default)s)")
    parser.add_argument("--scenes", type=int, default=FULL.scenes, help="images without trigger (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="number of seeds (default: %(default)s)")
    parser.add_argument("--concepts", nargs="+", choices=CONCEPTS, default=list(CONCEPTS), help="figures to train")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(DEFAULT_ARMS), help="arms to compare")
    parser.add_argument("--workers", type=int, default=2, help="processes, with one thread each (default: %(default)s)")
    parser.add_argument("--images", type=Path, help="folder for the generated images, a strip per run and step")
    return parser.parse_args()


if __name__ == "__main__":
    main()
