"""The checkpoints of a training in a folder, each of them whole or not there. Knows steps, not what they hold."""

import fcntl
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from lora.training.checkpoints.files import (
    Checkpoint,
    Json,
    Tensors,
    has_manifest,
    opened,
    read_checkpoint,
    sync,
    write_files,
    write_manifest,
)

KEPT = 2
BEST = "best"
SAVED = re.compile(r"step-(\d{6,12})(\.old-\w+)?", re.ASCII)
LEFT_BEHIND = re.compile(r"(step-\d{6,12}|best)\.(tmp|old)-\w+", re.ASCII)
SECONDS_TO_LOCK, SECONDS_UNFINISHED = 2, 3600  # a saver has locked its folder by then; cannot be saving any more


class CheckpointStore:
    """A folder that holds the newest 2 checkpoints, and the best. Processes may share it, and may be killed at any
    moment; what is damaged is told in one line each."""

    def __init__(self, folder: Path, identity: Json, *, report_damage: Callable[[str], None]) -> None:
        self.folder, self.identity, self._report_damage = folder, identity, report_damage
        self._damaged: set[Path] = set()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._sweep()

    def save(self, step: int, tensors: Mapping[str, Tensors], values: Json) -> Path:
        """Save copies of groups of tensors, and JSON; whole, synced to disk and only then under its name. What is older
        goes, and what has the same step is replaced.

        Raises OSError if the disk is full or broken; what was there before is there then too.
        """
        final = self._write(f"step-{step:06d}", step, tensors, values)
        self._prune(step)
        return final

    def save_best(self, step: int, tensors: Mapping[str, Tensors], values: Json) -> Path:
        """The same under the name `best`, where it stays until a better one replaces it."""
        return self._write(BEST, step, tensors, values)

    def keep_only_newest(self) -> None:
        """Delete what is older than the newest checkpoint that is whole, but for the best."""
        newest = self.newest()
        for folder in self._by_age():
            if newest is not None and _step(folder) < newest.step:
                _discard(folder)

    def newest(self) -> Checkpoint | None:
        """The checkpoint of the latest step that is whole, whatever training it is of."""
        return self._first_whole(self._by_age())

    def best(self) -> Checkpoint | None:
        """The best one, if one was saved and is whole."""
        replaced = sorted(self.folder.glob("best.old-*"))  # counts if its saver was killed between two renames
        return self._first_whole(folder for folder in (self.folder / BEST, *replaced) if has_manifest(folder))

    def _first_whole(self, folders: Iterable[Path]) -> Checkpoint | None:
        for folder in folders:
            try:
                return read_checkpoint(folder)
            except ValueError as error:
                self._damaged.add(folder)
                self._report_damage(str(error))
        return None

    def _write(self, name: str, step: int, tensors: Mapping[str, Tensors], values: Json) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # somebody may have tidied up
        self._sweep()
        unfinished = Path(tempfile.mkdtemp(prefix=f"{name}.tmp-", dir=self.folder))
        try:
            with opened(unfinished) as descriptor:
                with suppress(OSError):  # a file system without locks
                    fcntl.flock(descriptor, fcntl.LOCK_EX)  # which goes with the process, however that ends
                write_files(unfinished, tensors, values)
                write_manifest(unfinished, step, self.identity)
                return self._publish(unfinished, name)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)  # nothing, once it has its final name

    def _publish(self, unfinished: Path, name: str) -> Path:
        """Give it its name. Killed between the two renames, a folder by the name of `replaced` counts in its place."""
        final, replaced = self.folder / name, self.folder / f"{name}.old-{secrets.token_hex(4)}"
        if final.exists():
            final.rename(replaced)
        unfinished.rename(final)
        sync(self.folder)
        self._damaged.discard(final)
        _discard(replaced)
        return final

    def _by_age(self) -> list[Path]:
        """Folders of steps, the newest first; of one step, what is replaced last."""
        folders = [folder for folder in self.folder.iterdir() if SAVED.fullmatch(folder.name)]
        return sorted(filter(has_manifest, folders), key=lambda folder: (-_step(folder), folder.name))

    def _prune(self, step: int) -> None:
        """Later steps stay: they are damaged, or of a training that this one did not go on from."""
        folders = [folder for folder in self._by_age() if _step(folder) <= step]
        kept = [folder for folder in folders if folder not in self._damaged][:KEPT]
        for folder in folders:
            if folder not in kept:
                _discard(folder)

    def _sweep(self) -> None:
        """Delete what dead savers left, but not what was being replaced where nothing has come in its place."""
        for folder in self.folder.iterdir():
            if not (match := LEFT_BEHIND.fullmatch(folder.name)):
                continue
            with suppress(FileNotFoundError):  # another process sweeps too
                if match[2] == "tmp" and _is_abandoned(folder):
                    shutil.rmtree(folder, ignore_errors=True)
                elif match[2] == "old" and has_manifest(self.folder / match[1]):
                    _discard(folder)


def best_beside(checkpoint: Checkpoint) -> Checkpoint | None:
    """The best checkpoint of the store that a checkpoint is in, if there is one and it is whole."""
    folder = checkpoint.folder.parent / BEST
    try:
        return read_checkpoint(folder) if has_manifest(folder) else None
    except ValueError:
        return None


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-").split(".")[0])


def _is_abandoned(folder: Path) -> bool:
    age, enough = time.time() - folder.stat().st_mtime, SECONDS_TO_LOCK
    try:
        with opened(folder) as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # a saver holds it, or the file system has no locks
        enough = SECONDS_UNFINISHED
    return age > enough


def _discard(folder: Path) -> None:
    """Delete a folder that may count; half deleted, it does not."""
    doomed = folder.with_name(f"{folder.name.split('.')[0]}.tmp-{secrets.token_hex(4)}")
    with suppress(OSError):  # it is not there, or must be left to the next sweep
        folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
