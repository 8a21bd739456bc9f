"""A training on the best plan that memory suffices for: one rung down each time that it runs out."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from lora.dataset.encoding import EncodedDataset
from lora.flux.loading import free_memory
from lora.training.checkpoints.resume import InitialState
from lora.training.checkpoints.store import CheckpointStore
from lora.training.learning.data_parallel import SingleProcess
from lora.training.learning.trainer import Outcome
from lora.training.memory.configurations import Plan
from lora.training.memory.out_of_memory import is_out_of_memory
from lora.training.progress import Log
from lora.training.runs.attempt import Job, run_job
from lora.training.runs.launch import train_data_parallel
from lora.training.runs.worker_files import Work, numbered_prompts
from lora.training.stop import Stop

MemoryConfiguration = TypeVar("MemoryConfiguration")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Trained:
    """What came of a training, and the plan that memory sufficed for."""

    result: Outcome
    plan: Plan


def train_lora(
    job: Job,
    dataset: EncodedDataset,
    plans: tuple[Plan, ...],
    beginning: InitialState,
    *,
    store: CheckpointStore,
    processes: int,
    folder: Path,
    log: Log,
    stop: Stop,
) -> Trained:
    """Train on one of the plans, in this process or in several. Raises RuntimeError if memory suffices for no plan, and
    what `run_job` raises. A new try goes on from the last one's checkpoint."""
    tries = itertools.count(1)

    def attempt(plan: Plan) -> Trained:
        log.say(plan.line())
        own = store.newest()
        begin = beginning if own is None else InitialState(own, None)
        if processes == 1:
            result = run_job(job, dataset, plan, begin, store=store, team=SingleProcess(), log=log, stop=stop)
            assert result is not None
            return Trained(result, plan)
        work = Work(
            job=job,
            plan=plan,
            contents=tuple(example.content for example in dataset.examples),
            samples=len(dataset.samples),
            prompts=numbered_prompts(dataset),
            begin=begin.checkpoint.folder if begin.checkpoint else None,
            has_lora=begin.lora is not None,
            store=store.folder,
            identity=store.identity,
        )
        team = folder / f"team-{next(tries)}"
        result = train_data_parallel(work, dataset, begin.lora, processes=processes, folder=team, log=log, stop=stop)
        return Trained(result, plan)

    return run_with_fallbacks(plans, attempt, log)


def run_with_fallbacks(
    rungs: Sequence[MemoryConfiguration], attempt: Callable[[MemoryConfiguration], Result], log: Log
) -> Result:
    """What the first rung gives that memory suffices for; raises RuntimeError if it does for none."""
    for rung in rungs:
        try:
            return attempt(rung)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            log.say("out of memory" if rung is rungs[-1] else "out of memory: the next plan needs less")
        free_memory()  # now that the error is gone, which held on to all that the attempt had
    raise RuntimeError("memory does not suffice for this training: use a lower resolution, batch_size or lora_rank")
