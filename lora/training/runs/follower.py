"""Every process but the first of a training that a launcher has started: it does what the first one says.

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

from lora.flux.loading import free_memory
from lora.training.checkpoints.files import IN_TAR, read_checkpoint
from lora.training.checkpoints.resume import LAST, InitialState
from lora.training.checkpoints.store import CheckpointStore
from lora.training.learning.data_parallel import EndedElsewhereError
from lora.training.progress import Log
from lora.training.runs.attempt import run_job
from lora.training.runs.joining import INTERRUPTED, exit_without_others, join
from lora.training.runs.launched import Launched, LaunchError
from lora.training.runs.machines import FAILURES, Machines
from lora.training.runs.members import Member
from lora.training.runs.orders import Meet, Train, receive_files
from lora.training.runs.worker_files import read_data, read_initial_lora, read_worker_input
from lora.training.stop import Stop, Termination
from lora.workspace import workspace

SECONDS_TO_END = 60.0  # which the thread of the beats does, once it knows why a connection is closed
SECONDS_TO_LEAVE_LAST = 0.5  # a launcher ends its other processes once one of them ends with an error

FindBase = Callable[[str], tuple[str, Path]]


def follow(launched: Launched, find_base: FindBase) -> int:
    """Take part in a training, and return the exit code of the first process. `find_base` gets the name of
    the first process's base, returns the name and the folder of this machine's, and raises ValueError, OSError or
    RuntimeError if it cannot be trained.

    Raises what `join` raises, and LaunchError if the connection to the others has broken. Ends this process with exit
    code 1 if another one is lost.
    """
    termination = Termination.install()
    warnings.simplefilter("ignore")
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        machines = join(launched)
        try:
            return _obey(machines, find_base, termination)
        except EndedElsewhereError as error:
            time.sleep(SECONDS_TO_END)
            exit_without_others(1)
            raise LaunchError(str(error)) from error
        except KeyboardInterrupt:
            exit_without_others(INTERRUPTED)
            raise


def _obey(machines: Machines, find_base: FindBase, termination: Termination) -> int:
    base = Path()
    while True:
        order = machines.say()
        if isinstance(order, Meet):
            base = _meet(order, machines, find_base)
        elif isinstance(order, Train):
            _take_part(order, machines, base, termination)
            free_memory()
        elif isinstance(order, int):
            machines.leave()
            time.sleep(SECONDS_TO_LEAVE_LAST)
            return order


def _meet(order: Meet, machines: Machines, find_base: FindBase) -> Path:
    try:
        name, base = find_base(order.base)
    except (ValueError, OSError, RuntimeError) as error:
        machines.meet(Member.here(machines.rank, base=None, problem=str(error)))
        return Path()
    machines.meet(Member.here(machines.rank, base=base, name=name))
    return base


def _take_part(order: Train, machines: Machines, base: Path, termination: Termination) -> None:
    """Take part in an attempt. If it fails, the first process is told why, and decides what comes next."""
    try:
        _train(order, machines, base, termination)
    except EndedElsewhereError:
        raise
    except FAILURES:
        return


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    with workspace("follower") as folder:
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _train(order: Train, machines: Machines, base: Path, termination: Termination) -> None:
    log = Log(lambda _name, _value: None, None)
    with (
        machines.attempt(batch_size=order.batch_size) as process_group,
        termination.during_job(),
        _temporary_folder() as folder,
    ):
        receive_files(order, folder, process_group)
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
