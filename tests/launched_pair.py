"""Two processes as a launcher starts them, which meet on loopback and try what may happen to a training."""

import os
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed

from lora.training.learning.data_parallel import DataParallel
from lora.training.progress import Log
from lora.training.runs import commands
from lora.training.runs.commands import Train, files_to_send, receive_files, send_files
from lora.training.runs.heartbeat import Heartbeat
from lora.training.runs.joining import CURRENT, join
from lora.training.runs.launch import PROCESSES_VARIABLE
from lora.training.runs.launched import launched_process
from lora.training.runs.process_groups import ProcessGroups
from lora.training.runs.rank_zero import find_processes
from tests.tiny import TINY_FLUX

CONTENT, BLOCK = bytes(range(200)), 64
SILENCE = timedelta(seconds=0.6)


def variables(rank: int, port: int) -> dict[str, str]:
    """What a launcher puts into the environment of one of two processes, each the only one on its machine."""
    place = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "MASTER_PORT": port}
    return {name: str(value) for name, value in place.items()} | {"MASTER_ADDR": "127.0.0.1"}


def run_process(rank: int, port: int, folder: Path) -> None:
    """Join the other process, and save what each scenario gives to a file."""
    os.environ.update(variables(rank, port))
    launched = launched_process(os.environ)
    assert launched is not None
    groups = join(launched)
    results = {
        "shared": shared(groups, folder / f"received-{rank}"),
        "unwritable": shared(groups, folder / "blocked"),
        "out of memory": attempts(groups, torch.OutOfMemoryError("full")),
        "error": attempts(groups, ValueError("no such layer")),
        "unexpected error": attempts(groups, KeyError("no such key")),
        "silent": silent(groups),
        "processes": refusal_of_another_number(groups) if rank == 0 else "",
    }
    torch.save(results, folder / f"{rank}")
    if rank == 0:
        assert groups.end(75)
    else:
        assert groups.broadcast() == 75
        groups.leave()


def shared(groups: ProcessGroups, into: Path) -> bytes | str:
    """Send a file of several blocks and an empty one from the first process; the content that was received."""
    commands.BLOCK_BYTES = BLOCK
    into.mkdir(exist_ok=True)
    files = {"a/content": into / "content", "empty": into / "empty"}
    if groups.rank == 0:
        for path, content in zip(files.values(), (CONTENT, b""), strict=True):
            path.write_bytes(content)
    command = groups.broadcast(Train(1, files_to_send(files)) if groups.rank == 0 else None)
    assert isinstance(command, Train)
    try:
        with groups.attempt(batch_size=1) as parallel:
            if groups.rank == 0:
                send_files(files, parallel)
            else:
                receive_files(command, into, parallel)
            _sum(parallel)
    except (OSError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    assert (into / "empty").read_bytes() == b""
    return (into / "content" if groups.rank == 0 else into / "a/content").read_bytes()


def refusal_of_another_number(groups: ProcessGroups) -> str:
    """The error in the first process if a number of processes is set that is not that of the launcher."""
    os.environ[PROCESSES_VARIABLE], token = "3", CURRENT.set(groups)
    try:
        find_processes(TINY_FLUX, name="tiny", log=Log(lambda _name, _value: None, None))
    except ValueError as error:
        return str(error)
    finally:
        CURRENT.reset(token)
    return ""


def attempts(groups: ProcessGroups, error: Exception) -> list[str]:
    """What comes of two attempts, in the first of which the second process fails."""
    found = []
    for number in (1, 2):
        try:
            with groups.attempt(batch_size=1) as parallel:
                if (groups.rank, number) == (1, 1):
                    raise error
                found.append(f"sum {_sum(parallel):.0f}")
        except (RuntimeError, ValueError, KeyError) as raised:
            found.append(f"{type(raised).__name__}: {raised}")
    return found


def _sum(parallel: DataParallel) -> float:
    return parallel.all_reduce(torch.ones(1)).item()


def silent(groups: ProcessGroups) -> tuple[int | None, float]:
    """The rank that counts as lost where only this process sends beats, and the seconds until then; the processes take
    turns."""
    for rank in (0, 1):
        group, lost = torch.distributed.new_group(backend="gloo"), []
        if groups.rank == rank:
            beat = Heartbeat(
                group,
                rank=rank,
                size=2,
                longest_silence=SILENCE,
                on_loss=lost.append,
                on_failure=lambda: None,
            )
            began = time.monotonic()
            beat.start()
            while beat.is_running:
                time.sleep(0.05)
            result = lost[0], time.monotonic() - began
        torch.distributed.barrier()
    return result
