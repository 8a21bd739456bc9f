"""What rank 0, the first process of a training, does with the others, whether or not a launcher has started them."""

import os
from collections.abc import Mapping
from pathlib import Path

from lora.dataset.encoding import EncodedDataset
from lora.host_memory import free_host_bytes
from lora.training.checkpoints.files import packed
from lora.training.checkpoints.resume import LAST, InitialState
from lora.training.checkpoints.store import CheckpointStore
from lora.training.learning.summary import TrainingResult
from lora.training.memory.requirements import free_bytes
from lora.training.progress import Log
from lora.training.runs.attempt import run_job
from lora.training.runs.commands import Describe, Train, files_to_send, send_files
from lora.training.runs.joining import current_groups
from lora.training.runs.launch import PROCESSES_VARIABLE, count_processes
from lora.training.runs.process_groups import ProcessGroups
from lora.training.runs.process_info import Processes, ProcessInfo, described, processes_of, refuse_unequal
from lora.training.runs.worker_files import WorkerInput, write_worker_input
from lora.training.stop import Stop


def find_processes(base: Path, *, name: str, log: Log) -> Processes:
    """The processes of a training on a base, and the memory that each of them has: those that a launcher has started,
    or else one for each GPU of this machine.

    Raises ValueError with one sentence if some of the launched ones cannot train with this one, or if their number is
    not that in FLUX_LORA_PROCESSES; and what `count_processes` raises.
    """
    groups = current_groups()
    if groups is None:
        count = count_processes()
        return Processes(count, on_one_machine=count, free_bytes=free_bytes(), free_host_bytes=free_host_bytes())
    asked = os.environ.get(PROCESSES_VARIABLE, "").strip()
    if asked not in ("", str(groups.size)):
        raise ValueError(
            f"{PROCESSES_VARIABLE} is {asked!r}, and the launcher has started {groups.size} processes: unset it"
        )
    own = ProcessInfo.here(groups.rank, base=base, name=name)  # before the others wait for it
    groups.broadcast(Describe(name))
    infos = groups.gather(own)
    refuse_unequal(infos)
    log.write(described(infos))
    return processes_of(infos)


def train_on_all_ranks(
    worker_input: WorkerInput,
    dataset: EncodedDataset,
    initial_state: InitialState,
    *,
    groups: ProcessGroups,
    store: CheckpointStore,
    folder: Path,
    log: Log,
    stop: Stop,
) -> TrainingResult:
    """Train with the processes that a launcher has started, with `folder` for what is sent to them.

    Raises torch.OutOfMemoryError if one of them ran out of memory, RuntimeError with the error of another one if it
    failed, and what `run_job` raises.
    """
    files = _files(worker_input, dataset, initial_state, folder)
    batch_size = worker_input.job.recipe.batch_size
    groups.broadcast(Train(batch_size, files_to_send(files)))
    with groups.attempt(batch_size=batch_size) as process_group:
        send_files(files, process_group)
        result = run_job(
            worker_input.job,
            dataset,
            worker_input.plan,
            initial_state,
            store=store,
            process_group=process_group,
            log=log,
            stop=stop,
        )
    assert result is not None, "this is not the first process"
    return result


def _files(
    worker_input: WorkerInput, dataset: EncodedDataset, initial_state: InitialState, folder: Path
) -> Mapping[str, Path]:
    """Write what the other processes need, and return the files by the names that they get there."""
    folder.mkdir()
    write_worker_input(folder, worker_input, dataset, initial_state.lora)
    checkpoint = initial_state.checkpoint
    saved = dict(packed(checkpoint, folder=LAST)) if checkpoint is not None else {}
    return {path.name: path for path in sorted(folder.iterdir())} | saved
