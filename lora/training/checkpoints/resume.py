"""The state from which a training starts: a new LoRA, a checkpoint or an existing LoRA. Knows files, no training."""

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
from lora.training.checkpoints.earlier_runs import LATEST, lines_on_earlier_runs
from lora.training.checkpoints.files import IN_TAR, MANIFEST, STATE, TENSOR_FILE, Checkpoint, read_checkpoint
from lora.training.checkpoints.folder import VARIABLE, checkpoints_folder, is_lasting
from lora.training.checkpoints.identity import Json, folder_name, refuse_mismatch
from lora.training.checkpoints.store import BEST, CheckpointStore
from lora.training.progress import Log
from lora.workspace import Readable, named_file

LAST = "last"  # beside BEST in a tar
NAMED = "resume_from"
MAX_MEMBERS = 100_000
RUNS_KEPT = 8
SECONDS_BETWEEN, SECONDS_ENCODING = 1800, 24 * 3600  # an active run always saves or starts within this time


class Lora(Protocol):
    """A LoRA that was read from a file and checked."""

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """The tensors by their names in the file."""


class ReadLora(Protocol):
    """A function that reads a LoRA file, and raises ValueError with one sentence that begins with `named`."""

    def __call__(self, reference: str, *, named: str) -> Lora:
        """Read the file."""


@dataclass(frozen=True, slots=True)
class ResumeSource:
    """What `resume_from` names; nothing if all fields are empty."""

    is_latest: bool = False
    checkpoint: Checkpoint | None = None
    lora: Mapping[str, Tensor] | None = None


@dataclass(frozen=True, slots=True)
class InitialState:
    """The state from which a training starts; a new LoRA at the first step if both fields are None."""

    checkpoint: Checkpoint | None
    lora: Mapping[str, Tensor] | None


def find_resume_source(given: str, *, into: Path, read_lora: ReadLora, readable: Readable) -> ResumeSource:
    """Read what `resume_from` names: "latest", the folder of a checkpoint, a tar with a resume state, or a LoRA.

    Raises ValueError if it is none of these, if it is damaged, or if it is a path that is not readable.
    """
    if given in {"", "."}:
        return ResumeSource()
    path = Path(given)
    if given == LATEST:
        return ResumeSource(is_latest=True)
    if path.is_absolute():
        named_file(NAMED, path, readable)
    if not readable.contain(path) or not _exists(path):  # it may be the name of a LoRA elsewhere, as hf://owner/name
        return ResumeSource(lora=read_lora(given, named=NAMED).tensors)
    if (path / MANIFEST).is_file():
        return ResumeSource(checkpoint=_checkpoint(path))
    if path.is_dir():
        raise ValueError(f"{NAMED} is the folder {path.name!r} without {MANIFEST}: expected the folder of a checkpoint")
    if path.is_file() and _unpack_state(path, into):
        return ResumeSource(checkpoint=_checkpoint(into / LAST))
    return ResumeSource(lora=read_lora(given, named=NAMED).tensors)


def open_store(identity: Json, initial_state: InitialState, log: Log) -> CheckpointStore:
    """Create a new folder for the checkpoints of this run.

    Old runs that have ended are deleted, except for the one from which this run resumes. Raises ValueError if the
    folder cannot be created.
    """
    root = checkpoints_folder()
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        reason = f"{error.strerror}; set {VARIABLE} to another folder"
        raise ValueError(f"the checkpoint folder {str(root)!r} cannot be created: {reason}") from error
    _delete_old_runs(root, keep=initial_state.checkpoint.folder.parent if initial_state.checkpoint else None)
    run = root / folder_name(identity) / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    hint = "" if is_lasting() else f"; set {VARIABLE} to a persistent volume to keep them"
    log.write(f"checkpoints are saved to {run}{hint}")
    return CheckpointStore(run, identity, report_damage=log.write)


def find_initial_state(resume_source: ResumeSource, identity: Json, *, steps: int, log: Log) -> InitialState:
    """The state from which this training starts. Raises ValueError if the given checkpoint is of another training or
    is past the last step, or if all checkpoints of the training are damaged."""
    checkpoint = resume_source.checkpoint
    if checkpoint is not None:
        refuse_mismatch(checkpoint.identity, identity, NAMED)
    if resume_source.is_latest:
        checkpoint = newest_checkpoint(identity, log)
    if checkpoint is not None and checkpoint.step > steps:
        raise ValueError(f"{NAMED} is at step {checkpoint.step}: expected at most the {steps} steps of this training")
    if checkpoint is None:
        log.write(*lines_on_earlier_runs(identity, is_latest=resume_source.is_latest))
    else:
        log.write(f"resuming from step {checkpoint.step} in {checkpoint.folder}")
    return InitialState(checkpoint, resume_source.lora)


def newest_checkpoint(identity: Json, log: Log) -> Checkpoint | None:
    """The checkpoint with the highest step of all runs of a training. Raises ValueError if all of them are damaged."""
    runs = sorted((checkpoints_folder() / folder_name(identity)).glob("*/"))
    damaged: list[str] = []
    found = [CheckpointStore(run, identity, report_damage=damaged.append).newest() for run in runs]
    log.write(*damaged)
    checkpoints = [checkpoint for checkpoint in found if checkpoint is not None]
    if damaged and not checkpoints:
        raise ValueError(f"{NAMED} {LATEST}: all checkpoints of this training are damaged: {damaged[0]}")
    return max(checkpoints, key=lambda checkpoint: checkpoint.step, default=None)


def _exists(path: Path) -> bool:
    """Whether the path exists; a name that is too long for any file counts as missing and raises no error."""
    try:
        return path.exists()
    except OSError:
        return False


def _checkpoint(folder: Path) -> Checkpoint:
    try:
        return read_checkpoint(folder)
    except ValueError as error:
        raise ValueError(f"{NAMED}: {error}") from error


def _unpack_state(path: Path, into: Path) -> bool:
    """Copy the resume state out of a tar, file by file under fixed names. Returns False if the tar has none."""
    if not tarfile.is_tarfile(path):
        return False
    for folder in (LAST, BEST):
        (into / folder).mkdir(parents=True)
    try:
        with naming_input(NAMED), tarfile.open(path, "r:") as tar:
            _copy_state(tar, into)
    except tarfile.TarError as error:
        raise ValueError(f"{NAMED} is a damaged or compressed tar ({error}): expected the tar of a training") from error
    return (into / LAST / MANIFEST).is_file()


def _copy_state(tar: tarfile.TarFile, into: Path) -> None:
    budget = Budget.of_folder(into)
    for number, member in enumerate(tar):
        name = PurePosixPath(member.name)
        if number >= MAX_MEMBERS:
            raise ContentError(f"is a tar with more than {MAX_MEMBERS:,} files: expected the tar of a training")
        is_state = name.parent.name in {LAST, BEST} and name.parent.parent.name == IN_TAR
        is_known = name.name in {MANIFEST, STATE} or TENSOR_FILE.fullmatch(name.name)
        if is_state and is_known and member.isreg():
            _copy(tar, member, into / name.parent.name / name.name, budget)


def _copy(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path, budget: Budget) -> None:
    source = tar.extractfile(member)
    if source is None:
        return
    with path.open("wb") as target:
        while block := source.read(BLOCK):
            budget.spend(len(block))
            target.write(block)


def _delete_old_runs(root: Path, *, keep: Path | None) -> None:
    """Delete runs that have ended, except for the latest ones and `keep`."""
    runs = sorted(root.glob("*/*/"), key=_last_change, reverse=True)
    kept = keep.resolve() if keep else None
    for run in runs[RUNS_KEPT:]:
        is_empty = not any(run.glob("*"))  # until the images are encoded and the first checkpoint is saved
        age = time.time() - _last_change(run)
        if run.resolve() != kept and age > (SECONDS_ENCODING if is_empty else SECONDS_BETWEEN):
            shutil.rmtree(run, ignore_errors=True)
    for training in root.glob("*/"):
        with suppress(OSError):  # the folder is not empty
            training.rmdir()


def _last_change(run: Path) -> float:
    """When a checkpoint was last saved in a run, or the run started; 0 if another process has deleted the run."""
    try:
        return run.stat().st_mtime
    except FileNotFoundError:
        return 0.0
