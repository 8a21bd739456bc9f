"""One process of a data-parallel training, started by accelerate as `python -m lora.training.runs.worker FOLDER`."""

from lora.garbage import collect_garbage_again

# isort: split
import logging
import sys
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import PartialState

from lora.engine.out_of_memory import is_out_of_memory
from lora.training.checkpoints.files import read_checkpoint
from lora.training.checkpoints.resume import InitialState
from lora.training.checkpoints.store import CheckpointStore
from lora.training.learning.data_parallel import DataParallel
from lora.training.progress import Log
from lora.training.relay import PrintedRecorder, print_metric
from lora.training.runs.attempt import run_job
from lora.training.runs.worker_files import (
    FAILED,
    OUT_OF_MEMORY,
    STOP,
    read_data,
    read_initial_lora,
    read_worker_input,
    write_result,
)
from lora.training.stop import Stop, Termination

collect_garbage_again()

LONGEST_WAIT = timedelta(hours=2)  # for the first process, which alone validates, generates samples and saves


def main() -> None:
    """Run this process's part of the training that a folder describes; the first process writes the result there."""
    folder, termination = Path(sys.argv[1]), Termination.install()
    logging.getLogger("torch.distributed").setLevel(logging.ERROR)
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=LONGEST_WAIT)
    try:
        _train(folder, termination, rank=state.process_index, size=state.num_processes)
    except (ValueError, OSError, RuntimeError) as error:
        if is_out_of_memory(error):
            (folder / OUT_OF_MEMORY).touch()
        with suppress(FileExistsError), (folder / FAILED).open("x") as file:  # the first error caused the others
            file.write(str(error))
        raise
    state.destroy_process_group()


def _train(folder: Path, termination: Termination, *, rank: int, size: int) -> None:
    worker_input = read_worker_input(folder)
    log = Log(print_metric, PrintedRecorder())
    with termination.during_job():
        result = run_job(
            worker_input.job,
            read_data(folder, worker_input),
            worker_input.plan,
            InitialState(
                read_checkpoint(worker_input.checkpoint) if worker_input.checkpoint else None,
                read_initial_lora(folder, worker_input),
            ),
            store=CheckpointStore(worker_input.store, worker_input.identity, report_damage=log.write),
            process_group=DataParallel(rank=rank, size=size, batch_size=worker_input.job.recipe.batch_size),
            log=log,
            stop=Stop(log, termination, minutes=None, stop_file=folder / STOP),
        )
    if result is not None:
        write_result(folder, result)


if __name__ == "__main__":
    main()
