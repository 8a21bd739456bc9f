"""script/train on two machines: two launches on loopback that share no folder, the second one without the images."""

import re
import signal
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
import pytest
import torch

from lora.training.checkpoints.files import read_checkpoint
from script.launched_training import find_own_base
from tests.families import KLEIN
from tests.launched_pair import variables
from tests.servers import Tar, wait_until
from tests.tiny import base_with_few_prompts, linked_base, with_few_blocks
from tests.warm_process import SECONDS_TO_TRAIN, command, run_command, small_archive

pytestmark = pytest.mark.xdist_group("warm")

STEPS, PRESERVING = 20, 10
FLAGS = (
    "--resolution",
    64,
    "--lora-rank",
    2,
    "--learning-rate",
    0.01,
    "--optimizer",
    "adamw",
    "--sample-prompts",
    "none",
)
SECONDS_TO_END = 60  # after another machine is lost


@dataclass(frozen=True)
class Machine:
    """A machine with its own folders, in which a command runs."""

    folder: Path
    process: BaseProcess

    @property
    def said(self) -> str:
        """Its output so far."""
        return (self.folder / "log").read_text()

    @property
    def checkpoints(self) -> list[Path]:
        """Its checkpoints, from the first to the last step."""
        return sorted((self.folder / "checkpoints").glob("*/*/step-[0-9]*/manifest.json"))

    def wait_for_step(self, step: int) -> None:
        """Wait until it has saved the checkpoint of a step."""
        wait_until(lambda: self._has_saved(step), seconds=SECONDS_TO_TRAIN)

    def _has_saved(self, step: int) -> bool:
        assert self.process.is_alive(), self.said
        return any(f"step-{step:06}" in str(path) for path in self.checkpoints)

    def kill(self) -> None:
        """End it as when its power fails."""
        for each in [*psutil.Process(self.process.pid).children(recursive=True), psutil.Process(self.process.pid)]:
            each.kill()
        self.process.join()

    def exit_code(self, *, within: float = SECONDS_TO_TRAIN) -> int | None:
        """Wait for its end."""
        self.process.join(within)
        return self.process.exitcode

    def weights(self) -> torch.Tensor:
        """All exported weights that were zero at first (B), in full precision, from the last checkpoint."""
        report = Tar((self.folder / "mine.tar").read_bytes()).account
        assert (report["steps_done"], report["steps_preserving"]) == (STEPS, PRESERVING)
        average = read_checkpoint(self.checkpoints[-1].parent).tensors("average")
        return torch.cat([average[name].flatten() for name in sorted(average) if ".lora_B." in name])


def start(
    folder: Path, base: Path, given: Sequence[object], *, launcher: Sequence[object] = (), **environment: str
) -> Machine:
    """Start script/train, or a launcher that starts it."""
    (folder / "t").mkdir(parents=True, exist_ok=True)
    own = {
        "FLUX_BASE": str(base),
        "FLUX_LORA_CHECKPOINTS": str(folder / "checkpoints"),
        "FLUX_LORA_CACHE": str(folder / "cache"),
        "TMPDIR": str(folder / "t"),
    }
    module, *arguments = [*launcher, "script.train", *given]
    log = folder / "log"
    return Machine(folder, command(str(module), *arguments, stdout=log, stderr=log, **own, **environment))


class Machines:
    """Two machines, which can start the same training any number of times."""

    def __init__(self, folder: Path, archive: Path, base: Path) -> None:
        self.folder, self.archive, self.base = folder, archive, base

    def given(self, rank: int, *flags: object) -> list[object]:
        """The command line; the second machine has no archive."""
        archive = "/of/the/first/machine.zip" if rank else self.archive
        output = self.folder / f"{rank}/mine.tar"
        return [archive, *FLAGS, "--steps", STEPS, "--preservation", 0.5, "--output", output, *flags]

    def start(self, *flags: object, bases: Sequence[Path] = ()) -> tuple[Machine, Machine]:
        """Start both as SLURM does: each process with the variables of torch.distributed."""
        port = free_port()
        first, second = (
            start(self.folder / f"{rank}", base, self.given(rank, *flags), **variables(rank, port))
            for rank, base in enumerate(bases or (self.base, self.base))
        )
        return first, second

    def launch(self, python: Path) -> tuple[Machine, Machine]:
        """Start both with accelerate, as the documentation says, and with this Python."""
        address = ("--main_process_ip", "127.0.0.1", "--main_process_port", free_port())
        launcher = ("accelerate.commands.launch", "--multi_gpu", "--num_machines", 2, *address, "--num_processes", 2)
        first, second = (
            start(
                self.folder / f"{rank}",
                self.base,
                self.given(rank),
                launcher=(*launcher, "--machine_rank", rank, "-m"),
                PYTHON_EXEC=str(python),
            )
            for rank in (0, 1)
        )
        return first, second


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    return small_archive(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return with_few_blocks(base_with_few_prompts(tmp_path_factory.mktemp("small") / "base"))


@pytest.fixture
def machines(tmp_path, archive, base) -> Machines:
    return Machines(tmp_path, archive, base)


@pytest.fixture(scope="module")
def whole_batches(tmp_path_factory, archive, base) -> torch.Tensor:
    """The weights that one process gets with the whole batches."""
    alone = Machines(tmp_path_factory.mktemp("alone"), archive, base)
    machine = start(alone.folder / "0", base, alone.given(0, "--batch-size", 2))
    assert machine.exit_code() == 0, machine.said
    return machine.weights()


def difference(ours: torch.Tensor, expected: torch.Tensor) -> float:
    return ((ours - expected).norm() / expected.norm()).item()


def test_two_launches_by_accelerate_give_the_lora_of_one_process_with_twice_the_batch_size(
    machines, whole_batches, warm_python
):
    """The tolerance is due to Adam, which divides gradients by their own size; see test_several_processes.py."""
    first, second = machines.launch(warm_python)
    assert (first.exit_code(), second.exit_code()) == (0, 0), first.said + second.said
    assert "2 processes on 1 machine: 2 on " in first.said
    assert difference(first.weights(), whole_batches) <= 5e-3
    assert not list(second.folder.rglob("*.tar"))
    assert not second.checkpoints


def test_if_the_second_machine_is_lost_the_first_one_saves_and_one_machine_can_do_the_rest(machines, whole_batches):
    first, second = machines.start("--checkpoint-every", 1)
    first.wait_for_step(3)
    second.kill()
    assert first.exit_code(within=SECONDS_TO_END) == 1, first.said
    step = int(first.checkpoints[-1].parent.name.removeprefix("step-"))
    assert 3 <= step < STEPS
    assert re.fullmatch(
        r"error: rank 1 on \S+ has ended or does not respond any more, and a training cannot go on with fewer"
        rf" processes; step {step} is saved: the same command with --resume continues from there",
        first.said.splitlines()[-1],
    )
    rest = start(first.folder, machines.base, machines.given(0, "--batch-size", 2, "--resume"))
    assert rest.exit_code() == 0, rest.said
    assert f"resuming from step {step} in " in rest.said
    assert difference(rest.weights(), whole_batches) <= 5e-3


def test_if_the_first_machine_is_lost_the_second_one_says_so_and_ends(machines):
    first, second = machines.start("--checkpoint-every", 1)
    first.wait_for_step(2)
    first.kill()
    assert second.exit_code(within=SECONDS_TO_END) == 1
    waiting, said = second.said.splitlines()
    assert waiting.startswith("waiting for 2 processes at 127.0.0.1:")
    assert re.fullmatch(r"error: rank 0 on \S+ has ended or does not respond any more, and a training cannot .*", said)


def test_sigterm_on_the_second_machine_ends_both_with_the_lora_so_far_and_both_can_do_the_rest(machines, whole_batches):
    first, second = machines.start("--checkpoint-every", 1)
    first.wait_for_step(2)
    psutil.Process(second.process.pid).send_signal(signal.SIGTERM)
    assert (first.exit_code(), second.exit_code()) == (75, 75), first.said
    assert "another process of the training was asked to stop" in first.said
    assert Tar((first.folder / "mine.tar").read_bytes()).lora
    assert second.said.splitlines() == first.said.splitlines()[:1]  # that it waits
    first, second = machines.start("--resume")
    assert (first.exit_code(), second.exit_code()) == (0, 0), first.said
    assert "resuming from step " in first.said
    assert difference(first.weights(), whole_batches) <= 5e-3


def test_another_base_on_the_second_machine_is_refused_before_the_images_are_read(machines, tmp_path):
    """Here of the other family."""
    first, second = machines.start(bases=(machines.base, linked_base(tmp_path / "other", KLEIN.folder)))
    assert (first.exit_code(), second.exit_code()) == (1, 1)
    waiting, line = first.said.splitlines()
    assert waiting.startswith("waiting for 2 processes at 127.0.0.1:")
    assert re.match(r"error: the base folder other of rank 1 on \S+ is another one: expected the same files", line)
    assert second.said.splitlines() == first.said.splitlines()[:1]  # that it waits


@pytest.mark.parametrize(("is_named", "expected"), [(False, "tiny"), (True, "folder base")])
def test_a_machine_that_names_no_base_takes_that_of_the_first_one(monkeypatch, base, is_named, expected):
    """The first one may have it from the file that --config names."""
    monkeypatch.setenv("FLUX_BASE", str(base) if is_named else "")
    assert find_own_base("tiny")[0] == expected


def test_leftovers_of_a_launcher_are_refused_in_one_sentence():
    run = run_command("script.train", "photos.zip", WORLD_SIZE="2", RANK="0", LOCAL_RANK="0")
    assert run.returncode == 1
    assert run.stderr == (
        "error: WORLD_SIZE is 2, and MASTER_ADDR is not set: expected both; accelerate launch and torchrun set them,"
        " and without WORLD_SIZE this machine trains alone\n"
    )
