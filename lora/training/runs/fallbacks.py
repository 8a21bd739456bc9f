"""Train on the best plan that fits into memory: each time memory runs out, the next plan is tried."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from lora.base.device import free_memory
from lora.dataset.encoding import EncodedDataset
from lora.engine.out_of_memory import is_out_of_memory
from lora.training.checkpoints.resume import InitialState
from lora.training.checkpoints.store import CheckpointStore
from lora.training.learning.data_parallel import SingleProcess
from lora.training.learning.summary import TrainingResult
from lora.training.memory.configurations import Plan
from lora.training.progress import Log
from lora.training.runs.attempt import Job, run_job
from lora.training.runs.joining import current_groups
from lora.training.runs.launch import train_data_parallel
from lora.training.runs.rank_zero import train_on_all_ranks
from lora.training.runs.worker_files import WorkerInput, numbered_examples, numbered_prompts
from lora.training.stop import Stop

Option = TypeVar("Option")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class TrainedLora:
    """The result of a training, and the plan that fitted into memory."""

    result: TrainingResult
    plan: Plan


def train_lora(
    job: Job,
    dataset: EncodedDataset,
    plans: tuple[Plan, ...],
    initial_state: InitialState,
    *,
    store: CheckpointStore,
    processes: int,
    folder: Path,
    log: Log,
    stop: Stop,
) -> TrainedLora:
    """Train on the first plan that fits into memory, in this process or in several; an attempt resumes from the last
    one's checkpoint. Raises RuntimeError if no plan fits, and what `run_job` raises."""
    attempts = itertools.count(1)

    def attempt(plan: Plan) -> TrainedLora:
        log.write(plan.line())
        checkpoint = store.newest()
        start = initial_state if checkpoint is None else InitialState(checkpoint, None)
        if processes == 1:
            result = run_job(job, dataset, plan, start, store=store, process_group=SingleProcess(), log=log, stop=stop)
            assert result is not None
            return TrainedLora(result, plan)
        inputs = _worker_input(job, dataset, plan, start, store)
        files, groups = folder / f"attempt-{next(attempts)}", current_groups()
        if groups is None:
            result = train_data_parallel(
                inputs, dataset, start.lora, processes=processes, folder=files, log=log, stop=stop
            )
        else:
            result = train_on_all_ranks(
                inputs, dataset, start, groups=groups, store=store, folder=files, log=log, stop=stop
            )
        return TrainedLora(result, plan)

    return run_with_fallbacks(plans, attempt, log)


def _worker_input(
    job: Job, dataset: EncodedDataset, plan: Plan, start: InitialState, store: CheckpointStore
) -> WorkerInput:
    return WorkerInput(
        job=job,
        plan=plan,
        examples=numbered_examples(dataset),
        samples=len(dataset.samples),
        has_negative=dataset.negative is not None,
        prompts=numbered_prompts(dataset),
        checkpoint=start.checkpoint.folder if start.checkpoint else None,
        has_lora=start.lora is not None,
        store=store.folder,
        identity=store.identity,
    )


def run_with_fallbacks(options: Sequence[Option], attempt: Callable[[Option], Result], log: Log) -> Result:
    """The result of the first option whose attempt fits into memory. Raises RuntimeError if none does."""
    for option in options:
        try:
            return attempt(option)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            log.write("out of memory" if option is options[-1] else "out of memory: trying a plan that needs less")
        free_memory()  # only here: the error kept the attempt's tensors alive
    raise RuntimeError("not enough memory for this training: use a lower resolution, batch_size or lora_rank")
