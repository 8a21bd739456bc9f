"""What the first process commands the others to do, and the files that it sends them with it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from lora.training.learning.data_parallel import DataParallel

BLOCK_BYTES = 64 * 2**20  # sent at a time


@dataclass(frozen=True, slots=True)
class Describe:
    """Say what this process has."""

    base: str  # the name of the base of the first process


@dataclass(frozen=True, slots=True)
class Train:
    """Take part in an attempt at the training, with the files that follow."""

    batch_size: int  # of each process
    files: tuple[tuple[str, int], ...]  # relative paths, and bytes


def files_to_send(files: Mapping[str, Path]) -> tuple[tuple[str, int], ...]:
    """The relative paths that files get in the other processes, with their bytes."""
    return tuple((name, path.stat().st_size) for name, path in files.items())


def send_files(files: Mapping[str, Path], parallel: DataParallel) -> None:
    """Send files to the other processes, which receive them at the same time."""
    for path in files.values():
        size = path.stat().st_size
        for start, end in _blocks(size):
            parallel.broadcast(torch.from_file(str(path), size=size, dtype=torch.uint8)[start:end])


def receive_files(train: Train, into: Path, parallel: DataParallel) -> None:
    """Write the files that follow a command. Raises OSError if one of them cannot be written."""
    for name, size in train.files:
        path = into / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for start, end in _blocks(size):
                block = torch.empty(end - start, dtype=torch.uint8)
                parallel.broadcast(block)
                file.write(block.numpy().data)


def _blocks(size: int) -> Iterator[tuple[int, int]]:
    """Where the blocks of a file begin and end."""
    return ((start, min(start + BLOCK_BYTES, size)) for start in range(0, size, BLOCK_BYTES))
