"""How well a training learns, and what it costs: our presets compared with a plain loop, on the embedded base, in
paired runs.

Each run trains one arm with one seed on one figure, style or collection of things. At some steps it measures the loss
on new images of it and on the base's own world, at fixed noise and sigmas. At the end it also generates images: of what
was learned, to see how right they are, and of other prompts, to see what else has changed. All arms have the same
images, captions, batch size and number of steps. Completed runs are written to a file of JSON lines, so that an
interrupted benchmark can resume.
"""

import argparse
import contextlib
import functools
import itertools
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path

import diffusers.utils.logging
import torch
import transformers.utils.logging
from diffusers import FluxPipeline

from bench.arms import (
    ARMS,
    PLAIN,
    PRESERVATION_ARMS,
    Material,
    arms_of,
    crops_of_arm,
    dropped_text_of_arm,
    settings_of,
    train_arm,
    word_of_arm,
)
from bench.concepts import CONCEPTS, TRAINING_IMAGES, TRAINING_SEED
from bench.learning_tables import Run, as_markdown
from bench.machine import machine
from bench.measures import Evaluation, Extent, examples_of
from bench.report import RESULTS, argument_parser
from bench.tasks import TASKS, TaskEvaluation
from lora.dataset.encoding import EncodedDataset, Example
from lora.flux.prompt import encode_prompt
from lora.training.recipe.neutral import neutral_prompts
from lora.training.recipe.sigmas import Shift
from weights.bases import WEIGHTS

BASE = WEIGHTS / "tiny-flux"
CHECKPOINTS, GENERATED_AT = (0.1, 0.25, 0.5, 0.75, 1.0), (1.0,)  # fractions of the steps
SEEDS, STEPS = (1, 2, 3), 1000  # the peer's preset has 1000 steps


FULL = Extent(STEPS, held_out=10, world=8, drawn=5, scenes=20, inference_steps=10, references=80)
FULL_TASK = Extent(400, held_out=8, world=8, drawn=8, scenes=8, inference_steps=10, references=12)
SMALL = Extent(4, held_out=1, world=1, drawn=1, scenes=1, inference_steps=2, references=2)
SUBJECT = "subject"
LEARNED = {  # the names of what is learned, by lora_type
    SUBJECT: tuple(CONCEPTS),
    **{kind: tuple(task.name for task in TASKS.values() if task.lora_type == kind) for kind in ("style", "general")},
}


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
    kept = output.with_suffix(".runs.jsonl")
    for folder in filter(None, (output.parent, arguments.images)):
        folder.mkdir(parents=True, exist_ok=True)
    full = FULL if arguments.lora_type == SUBJECT else FULL_TASK
    given = {name: value for name in ("steps", "scenes") if (value := getattr(arguments, name)) is not None}
    extent = SMALL if arguments.small else replace(full, **given)
    names, seeds = arguments.concepts or LEARNED[arguments.lora_type], SEEDS[: arguments.seeds]
    if arguments.small:
        names, seeds = names[:1], seeds[:1]
    arms = arguments.arms or (PLAIN, "replicate", arguments.lora_type)
    jobs = [Job(name, seed, arm, extent, arguments.images) for seed, name, arm in itertools.product(seeds, names, arms)]
    runs = all_runs(jobs, kept, workers=arguments.workers)
    about = machine("torch", "diffusers", "peft", "transformers", "pillow", "numpy")
    output.write_text(json.dumps({"machine": about, "extent": asdict(extent), "runs": runs}, indent=1) + "\n")
    kept.unlink()
    print(f"wrote {output}\n\n{as_markdown(runs)}")


def all_runs(jobs: list[Job], kept: Path, *, workers: int) -> list[Run]:
    """The results of all jobs in order; those in the file `kept` are not run again, and new ones are appended to it."""
    done = _done(kept)
    missing = [job for job in jobs if _key(identity_of(job)) not in done]
    with kept.open("a") as file:
        for count, result in enumerate(_results(missing, workers), start=1):
            done[_key(result)] = result
            file.write(json.dumps(result) + "\n")
            file.flush()
            which = f"{result['concept']}, seed {result['seed']}, {result['arm']}: {result['seconds']:.0f} s"
            print(f"  {count} of {len(missing)}: {which}", file=sys.stderr)
    return [done[_key(identity_of(job))] for job in jobs]


def _results(jobs: list[Job], workers: int) -> Iterator[Run]:
    """The results of jobs as they finish; a single worker is this process."""
    if workers == 1:
        yield from map(run, jobs)
        return
    os.environ["OMP_NUM_THREADS"] = "1"  # for the process that the workers are forked from, which imports torch later
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("forkserver")) as pool:
        yield from (future.result() for future in as_completed([pool.submit(run, job) for job in jobs]))


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
    pipeline = _base()
    evaluation = _evaluation(job.concept, job.extent)
    material = _material(job.arm, job.concept, pipeline)
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


def _material(arm: str, name: str, pipeline: FluxPipeline) -> Material:
    crops, word, asked = crops_of_arm(arm), word_of_arm(arm), list[Example]()
    if name in TASKS:
        examples = TASKS[name].examples(pipeline, crops=crops)
    else:
        examples = examples_of(CONCEPTS[name], TRAINING_IMAGES, TRAINING_SEED, pipeline, crops=crops)
    if word is not None:
        asked = examples_of(CONCEPTS[name], TRAINING_IMAGES, TRAINING_SEED, pipeline, word=word)
    neutral = tuple(encode_prompt(pipeline, prompt) for prompt in neutral_prompts(BASE))
    dropped = encode_prompt(pipeline, dropped_text_of_arm(arm))
    return Material(EncodedDataset(tuple(examples), dropped=dropped, neutral=neutral), tuple(asked))


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
def _evaluation(name: str, extent: Extent) -> Evaluation | TaskEvaluation:
    if name in TASKS:
        return TaskEvaluation(TASKS[name], extent, _base())
    return Evaluation(CONCEPTS[name], extent, _base())


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
    parser.add_argument("--lora-type", choices=LEARNED, default=SUBJECT, help="what is learned (default: %(default)s)")
    parser.add_argument("--steps", type=int, help=f"steps of each training (default: {STEPS}, but {FULL_TASK.steps})")
    parser.add_argument("--scenes", type=int, help=f"images without trigger ({FULL.scenes}, but {FULL_TASK.scenes})")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="number of seeds (default: %(default)s)")
    parser.add_argument("--concepts", nargs="+", choices=(*CONCEPTS, *TASKS), help="what to train of that type")
    parser.add_argument("--arms", nargs="+", choices=ARMS, help="arms to compare (default: plain, replicate, the type)")
    parser.add_argument(
        "--preservation", action="store_const", const=["subject", *PRESERVATION_ARMS], dest="arms",
        help="compare what preservation asks, its share and its weight, in place of --arms",
    )  # fmt: skip
    parser.add_argument("--workers", type=int, default=2, help="processes, with one thread each (default: %(default)s)")
    parser.add_argument("--images", type=Path, help="folder for the generated images, a strip per run and step")
    arguments = parser.parse_args()
    for flag, given, known in (
        ("--concepts", arguments.concepts, LEARNED[arguments.lora_type]),
        ("--arms", arguments.arms, arms_of(arguments.lora_type)),
    ):
        if unknown := [each for each in given or () if each not in known]:
            of_type = f"--lora-type {arguments.lora_type} has {', '.join(known)}"
            parser.error(f"{flag} {unknown[0]!r} is of another type: {of_type}")
    return arguments


if __name__ == "__main__":
    main()
