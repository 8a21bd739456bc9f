"""Trainings and commands in forked processes with warm imports, so that a test can afford many and kill them.

Tests that use this module are in one xdist group, `warm`, because the process that is forked takes 8 seconds to start.
It only imports, and has not started a thread: a forked process would lack it.
"""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil

from script.cog_server import ROOT
from script.openapi import training_inputs
from tests.servers import Tar, wait_until
from tests.tiny import encoded, noisy_image, write, zipped

IMAGES = {f"{index}.png": encoded(noisy_image(64, 64, seed=index)) for index in range(4)}
INPUTS = training_inputs(ROOT)  # read once: Python 3.11 cannot parse in two threads at a time (cpython#106905)
SECONDS_TO_TRAIN = 240
SECONDS_FOR_A_COMMAND = 600
os.environ.setdefault("OMP_NUM_THREADS", "1")  # else NumPy's import starts threads in the process that is forked
FORKING = multiprocessing.get_context("forkserver")  # its server has run no code that a fork could break
FORKING.set_forkserver_preload(["pytest", "train", "tests.tiny", "tests.data_parallel_steps", "tests.frozen_imports"])


@dataclass(frozen=True)
class Training:
    """A training that is running or has ended."""

    process: BaseProcess
    output: Path
    log: Path

    @property
    def said(self) -> str:
        """Its output so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def has_said(self, words: str) -> bool:
        """Whether it has printed these words; fail if it ended without them."""
        has_ended = not self.process.is_alive()
        assert words in self.said or not has_ended, self.said
        return words in self.said

    def wait_for(self, words: str) -> None:
        """Wait until it prints these words."""
        wait_until(lambda: self.has_said(words), seconds=SECONDS_TO_TRAIN)

    def tar(self) -> Tar:
        """Wait for its end, and return its output."""
        self.process.join(SECONDS_TO_TRAIN)
        assert self.process.exitcode == 0, self.said
        return Tar(self.output.read_bytes())

    def error(self) -> str:
        """Wait for its end, and return the sentence with which it failed."""
        self.process.join(SECONDS_TO_TRAIN)
        assert self.process.exitcode == 1, self.said
        return self.said.splitlines()[-1]


@dataclass
class Trainer:
    """Starts trainings of one archive, which share only a folder of checkpoints and a cache."""

    folder: Path
    archive: Path
    settings: dict[str, object]
    base: str | Path = "tiny"
    count: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def checkpoints(self) -> Path:
        """The folder of their checkpoints."""
        return self.folder / "checkpoints"

    def start(self, *, processes: int = 1, **inputs: object) -> Training:
        """Start a training in its own process."""
        self.count += 1
        own = self.folder / f"{self.count}"
        (own / "t").mkdir(parents=True)
        defaults = {name: schema.get("default") for name, schema in INPUTS.items()}
        given = defaults | {"input_images": str(self.archive)} | self.settings | inputs
        environment = {
            "FLUX_BASE": str(self.base),
            "FLUX_LORA_CHECKPOINTS": str(self.checkpoints),
            "FLUX_LORA_CACHE": str(self.folder / "cache"),
            "FLUX_LORA_PROCESSES": str(processes),
            "TMPDIR": str(own / "t"),
            **self.environment,
        }
        training = Training(
            FORKING.Process(target=_train, args=(given, environment, own / "made.tar", own / "log")),
            own / "made.tar",
            own / "log",
        )
        training.process.start()
        return training

    def train(self, **inputs: object) -> Tar:
        """Run a training to its end, and return its output."""
        return self.start(**inputs).tar()


def _train(inputs: dict[str, object], environment: dict[str, str], output: Path, log: Path) -> None:
    os.environ.update(environment)
    with log.open("wb", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have disabled it for its children
    from train import train  # noqa: PLC0415 - only in this process

    try:
        tar = Path(str(train(**inputs).weights))
    except (ValueError, OSError, RuntimeError) as error:
        sys.stdout.flush()
        print(error, flush=True)
        sys.exit(1)
    tar.rename(output)


def run_command(module: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m module` in the root of the repository, and return its result."""
    given = list(map(str, arguments))
    with tempfile.TemporaryDirectory() as folder:
        stdout, stderr = (Path(folder) / name for name in ("stdout", "stderr"))
        process = command(module, *arguments, stdout=stdout, stderr=stderr, **environment)
        process.join(SECONDS_FOR_A_COMMAND)
        assert process.exitcode is not None, f"{module} did not end"
        return subprocess.CompletedProcess([module, *given], process.exitcode, stdout.read_text(), stderr.read_text())


def command(module: str, *arguments: object, stdout: Path, stderr: Path, **environment: str) -> BaseProcess:
    """Start `python -m module` in the root of the repository, with its output in files."""
    given, variables = list(map(str, arguments)), os.environ | environment
    process = FORKING.Process(target=_run_command, args=(module, given, variables, stdout, stderr))
    process.start()
    return process


def _run_command(module: str, arguments: list[str], environment: Mapping[str, str], stdout: Path, stderr: Path) -> None:
    for descriptor, path in ((1, stdout), (2, stderr)):
        with path.open("ab") as file:
            os.dup2(file.fileno(), descriptor)
    run_module(module, arguments, environment, ROOT)


def run_module(module: str, arguments: list[str], environment: Mapping[str, str], folder: str | Path) -> None:
    """Run a module as `python -m` does, in a forked process that does nothing else."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have disabled it for its children
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


@contextmanager
def no_process_left(training: Training) -> Iterator[None]:
    """Fail if any process that a training has at the start of the block is alive shortly after its end."""
    processes = [training_process := psutil.Process(training.process.pid), *training_process.children(recursive=True)]
    yield
    gone, alive = psutil.wait_procs(processes, timeout=15)
    assert not [each for each in alive if each.status() != psutil.STATUS_ZOMBIE], gone


def small_archive(folder: Path) -> Path:
    """Write a zip with the training images, and return its path."""
    return write(folder / "images.zip", zipped(IMAGES))
