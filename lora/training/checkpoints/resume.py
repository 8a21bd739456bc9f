"""Where a training begins: from nothing, from a checkpoint, or from a LoRA. Knows files, not how they are trained."""

import os
import shutil
import tarfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from torch import Tensor

from lora.dataset.limits import BLOCK, Budget
from lora.dataset.refusal import ContentError, naming_input
from lora.training.checkpoints.files import IN_TAR, MANIFEST, STATE, TENSOR_FILE, Checkpoint, read_checkpoint
from lora.training.checkpoints.identity import Json, folder_name, refuse_other
from lora.training.checkpoints.store import BEST, CheckpointStore
from lora.training.progress import Log

FOLDER_VARIABLE, DEFAULT_FOLDER = "FLUX_LORA_CHECKPOINTS", "~/.cache/flux-lora/checkpoints"
LATEST = "latest"
LAST = "last"  # beside BEST in a tar
NAMED = "resume_from"
MOST_MEMBERS = 100_000
RUNS_KEPT = 8
SECONDS_BETWEEN, SECONDS_ENCODING = 1800, 24 * 3600  # a living run is never quiet for so long


class Lora(Protocol):
    """A LoRA that was read and checked."""

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """By the names that its file gives them."""


class ReadLora(Protocol):
    """Reads a LoRA file; raises ValueError in one sentence, which begins with `named`."""

    def __call__(self, reference: str, *, named: str) -> Lora:
        """Read it."""


@dataclass(frozen=True, slots=True)
class Start:
    """What was given to begin with; nothing if all are empty."""

    is_latest: bool = False
    checkpoint: Checkpoint | None = None
    lora: Mapping[str, Tensor] | None = None


@dataclass(frozen=True, slots=True)
class InitialState:
    """Where a training really begins; at its first step, from nothing, if both are empty."""

    checkpoint: Checkpoint | None
    lora: Mapping[str, Tensor] | None


def find_resume_source(given: str, *, into: Path, read_lora: ReadLora) -> Start:
    """Read what `resume_from` names: "latest", the folder of a checkpoint, a tar with a resume state, or a LoRA.

    Raises ValueError if it is none of these, or damaged.
    """
    if given in {"", "."}:
        return Start()
    path = Path(given)
    if given == LATEST:
        return Start(is_latest=True)
    if not _is_there(path):
        return Start(lora=read_lora(given, named=NAMED).tensors)
    if (path / MANIFEST).is_file():
        return Start(checkpoint=_checkpoint(path))
    if path.is_dir():
        raise ValueError(f"{NAMED} is the folder {path.name!r} without {MANIFEST}: expected that of one checkpoint")
    if path.is_file() and _unpacked(path, into):
        return Start(checkpoint=_checkpoint(into / LAST))
    return Start(lora=read_lora(given, named=NAMED).tensors)


def open_store(identity: Json, beginning: InitialState, log: Log) -> CheckpointStore:
    """A new folder for the checkpoints of this run; of earlier runs, those are deleted that are long over, but for the
    one that this run goes on from."""
    root = checkpoints_folder()
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        reason = f"{error.strerror}; {FOLDER_VARIABLE} names another folder"
        raise ValueError(f"checkpoints need the folder {str(root)!r}: {reason}") from error
    _sweep(root, but=beginning.checkpoint.folder.parent if beginning.checkpoint else None)
    run = root / folder_name(identity) / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    hint = "" if os.environ.get(FOLDER_VARIABLE) else f"; {FOLDER_VARIABLE} can name a volume that outlives it"
    log.say(f"checkpoints go to {run}{hint}")
    return CheckpointStore(run, identity, report_damage=log.say)


def find_initial_state(start: Start, identity: Json, *, steps: int, log: Log) -> InitialState:
    """Where this training begins; raises ValueError if a checkpoint that was given is of another training."""
    checkpoint = start.checkpoint
    if checkpoint is not None:
        refuse_other(checkpoint.identity, identity, NAMED)
    if start.is_latest:
        checkpoint = newest_checkpoint(identity, log)
        if checkpoint is None:
            log.say(f"{NAMED} {LATEST}: this training has no checkpoint yet; it begins at its first step")
    if checkpoint is not None and checkpoint.step > steps:
        raise ValueError(f"{NAMED} is at step {checkpoint.step}: expected at most the {steps} steps of this training")
    if checkpoint is not None:
        log.say(f"goes on from step {checkpoint.step}, which {checkpoint.folder} holds")
    return InitialState(checkpoint, start.lora)


def newest_checkpoint(identity: Json, log: Log) -> Checkpoint | None:
    """The checkpoint of the latest step of any run of a training; raises ValueError if all there are are damaged."""
    runs = sorted((checkpoints_folder() / folder_name(identity)).glob("*/"))
    damaged: list[str] = []
    found = [CheckpointStore(run, identity, report_damage=damaged.append).newest() for run in runs]
    log.say(*damaged)
    checkpoints = [checkpoint for checkpoint in found if checkpoint is not None]
    if damaged and not checkpoints:
        raise ValueError(f"{NAMED} {LATEST}: every checkpoint of this training is damaged: {damaged[0]}")
    return max(checkpoints, key=lambda checkpoint: checkpoint.step, default=None)


def checkpoints_folder() -> Path:
    """Where all trainings of this machine keep their checkpoints."""
    return Path(os.environ.get(FOLDER_VARIABLE, DEFAULT_FOLDER)).expanduser()


def _is_there(path: Path) -> bool:
    """Whether there is one; a name too long for any file is no error, but the name of nothing."""
    try:
        return path.exists()
    except OSError:
        return False


def _checkpoint(folder: Path) -> Checkpoint:
    try:
        return read_checkpoint(folder)
    except ValueError as error:
        raise ValueError(f"{NAMED}: {error}") from error


def _unpacked(path: Path, into: Path) -> bool:
    """Copy the resume state out of a tar, file by file under its own plain names; False if it holds none."""
    if not tarfile.is_tarfile(path):
        return False
    for folder in (LAST, BEST):
        (into / folder).mkdir(parents=True)
    try:
        with naming_input(NAMED), tarfile.open(path, "r:") as tar:
            _copy_state(tar, into)
    except tarfile.TarError as error:
        raise ValueError(f"{NAMED} is a damaged or a compressed tar ({error}): expected that of a training") from error
    return (into / LAST / MANIFEST).is_file()


def _copy_state(tar: tarfile.TarFile, into: Path) -> None:
    budget = Budget.of_folder(into)
    for number, member in enumerate(tar):
        place = PurePosixPath(member.name)
        if number >= MOST_MEMBERS:
            raise ContentError(f"is a tar of more than {MOST_MEMBERS:,} files: expected that of a training")
        is_state = place.parent.name in {LAST, BEST} and place.parent.parent.name == IN_TAR
        is_known = place.name in {MANIFEST, STATE} or TENSOR_FILE.fullmatch(place.name)
        if is_state and is_known and member.isreg():
            _copy(tar, member, into / place.parent.name / place.name, budget)


def _copy(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path, budget: Budget) -> None:
    source = tar.extractfile(member)
    if source is None:
        return
    with path.open("wb") as target:
        while block := source.read(BLOCK):
            budget.spend(len(block))
            target.write(block)


def _sweep(root: Path, *, but: Path | None) -> None:
    """Delete runs that are over, but for the latest ones and one more."""
    runs = sorted(root.glob("*/*/"), key=_last_change, reverse=True)
    kept = but.resolve() if but else None
    for run in runs[RUNS_KEPT:]:
        is_empty = not any(run.glob("*"))  # as long as a training encodes its images
        quiet = time.time() - _last_change(run)
        if run.resolve() != kept and quiet > (SECONDS_ENCODING if is_empty else SECONDS_BETWEEN):
            shutil.rmtree(run, ignore_errors=True)
    for training in root.glob("*/"):
        with suppress(OSError):  # it is not empty
            training.rmdir()


def _last_change(run: Path) -> float:
    """When a checkpoint was last put into a run, or a run begun; another process may have deleted it."""
    try:
        return run.stat().st_mtime
    except FileNotFoundError:
        return 0.0
