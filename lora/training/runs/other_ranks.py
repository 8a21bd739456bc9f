"""Every process but the first of a training that a launcher has started: it carries out the commands of the first one.

It reads no flags, no archive and no checkpoint of its own, and prints nothing.
"""

import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path

from lora.base.device import free_memory
from lora.training.checkpoints.files import IN_TAR, read_checkpoint
from lora.training.checkpoints.resume import LAST, InitialState
from lora.training.checkpoints.store import CheckpointStore
from lora.training.learning.data_parallel import EndedElsewhereError
from lora.training.progress import Log
from lora.training.runs.attempt import run_job
from lora.training.runs.commands import Describe, Train, receive_files
from lora.training.runs.joining import INTERRUPTED, exit_without_others, join
from lora.training.runs.launched import Launched, LaunchError
from lora.training.runs.process_groups import FAILURES, ProcessGroups
from lora.training.runs.process_info import ProcessInfo
from lora.training.runs.worker_files import read_data, read_initial_lora, read_worker_input
from lora.training.stop import Stop, Termination
from lora.workspace import workspace

SECONDS_TO_END = 60.0  # which the thread of the heartbeats does, once it knows why a connection is closed
SECONDS_TO_LEAVE_LAST = 0.5  # a launcher ends its other processes once one of them ends with an error

FindBase = Callable[[str], tuple[str, Path]]


def run_other_rank(launched: Launched, find_base: FindBase) -> int:
    """Take part in a training, and return the exit code of the first process. `find_base` gets the name of
    the first process's base, returns the name and the folder of this machine's, and raises ValueError, OSError or
    RuntimeError if it cannot be trained.

    Raises what `join` raises, and LaunchError if the connection to the others has broken. Ends this process with exit
    code 1 if another one is lost.
    """
    termination = Termination.install()
    warnings.simplefilter("ignore")
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        groups = join(launched)
        try:
            return _run_commands(groups, find_base, termination)
        except EndedElsewhereError as error:
            time.sleep(SECONDS_TO_END)
            exit_without_others(1)
            raise LaunchError(str(error)) from error
        except KeyboardInterrupt:
            exit_without_others(INTERRUPTED)
            raise


def _run_commands(groups: ProcessGroups, find_base: FindBase, termination: Termination) -> int:
    base = Path()
    while True:
        command = groups.broadcast()
        if isinstance(command, Describe):
            base = _describe(command, groups, find_base)
        elif isinstance(command, Train):
            _take_part(command, groups, base, termination)
            free_memory()
        elif isinstance(command, int):
            groups.leave()
            time.sleep(SECONDS_TO_LEAVE_LAST)
            return command


def _describe(command: Describe, groups: ProcessGroups, find_base: FindBase) -> Path:
    try:
        name, base = find_base(command.base)
    except (ValueError, OSError, RuntimeError) as error:
        groups.gather(ProcessInfo.here(groups.rank, base=None, problem=str(error)))
        return Path()
    groups.gather(ProcessInfo.here(groups.rank, base=base, name=name))
    return base


def _take_part(command: Train, groups: ProcessGroups, base: Path, termination: Termination) -> None:
    """Take part in an attempt. If it fails, the first process is told why, and decides what comes next."""
    try:
        _train(command, groups, base, termination)
    except EndedElsewhereError:
        raise
    except FAILURES:
        return


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    with workspace("rank") as folder:
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _train(command: Train, groups: ProcessGroups, base: Path, termination: Termination) -> None:
    log = Log(lambda _name, _value: None, None)
    with (
        groups.attempt(batch_size=command.batch_size) as process_group,
        termination.during_job(),
        _temporary_folder() as folder,
    ):
        receive_files(command, folder, process_group)
        worker_input = read_worker_input(folder)
        run_job(
            replace(worker_input.job, base=base, samples_folder=folder, page=None),
            read_data(folder, worker_input),
            worker_input.plan,
            InitialState(
                read_checkpoint(folder / IN_TAR / LAST) if worker_input.checkpoint else None,
                read_initial_lora(folder, worker_input),
            ),
            store=CheckpointStore(folder / "checkpoints", worker_input.identity, report_damage=log.write),
            process_group=process_group,
            log=log,
            stop=Stop(log, termination, minutes=None),
        )
