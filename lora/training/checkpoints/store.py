"""The checkpoints of a training in a folder, saved atomically. Knows their steps, not their contents."""

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
# Seconds after which a saving process has locked its folder, so that an unlocked one counts as abandoned; seconds after
# which a folder counts as abandoned even if it is locked, or if the file system has no locks. Our choice.
SECONDS_TO_LOCK, SECONDS_UNFINISHED = 2, 3600


class CheckpointStore:
    """A folder with the newest 2 checkpoints and the best one.

    Processes may share the folder, and may be killed at any moment. `report_damage` is called with one line for each
    damaged checkpoint.
    """

    def __init__(self, folder: Path, identity: Json, *, report_damage: Callable[[str], None]) -> None:
        self.folder, self.identity, self._report_damage = folder, identity, report_damage
        self._damaged: set[Path] = set()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._delete_abandoned()

    def save(self, step: int, tensors: Mapping[str, Tensors], values: Json) -> Path:
        """Save copies of groups of tensors, and JSON; the checkpoint gets its name only once it is complete and synced
        to disk. Older checkpoints are deleted, and one of the same step is replaced.

        Raises OSError if the disk is full or broken; the earlier checkpoints are still there then.
        """
        final = self._write(f"step-{step:06d}", step, tensors, values)
        self._prune(step)
        return final

    def save_best(self, step: int, tensors: Mapping[str, Tensors], values: Json) -> Path:
        """Save in the same way under the name `best`, where the checkpoint stays until the next call replaces it."""
        return self._write(BEST, step, tensors, values)

    def keep_only_newest(self) -> None:
        """Delete everything older than the newest undamaged checkpoint, except for the best one."""
        newest = self.newest()
        for folder in self._by_age():
            if newest is not None and _step(folder) < newest.step:
                _discard(folder)

    def newest(self) -> Checkpoint | None:
        """The undamaged checkpoint of the highest step, of whatever training."""
        return self._first_undamaged(self._by_age())

    def best(self) -> Checkpoint | None:
        """The best checkpoint, if one was saved and is undamaged."""
        return self._first_undamaged(_best_folders(self.folder))

    def _first_undamaged(self, folders: Iterable[Path]) -> Checkpoint | None:
        for folder in folders:
            try:
                return read_checkpoint(folder)
            except ValueError as error:
                self._damaged.add(folder)
                self._report_damage(str(error))
        return None

    def _write(self, name: str, step: int, tensors: Mapping[str, Tensors], values: Json) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # it may have been deleted
        self._delete_abandoned()
        unfinished = Path(tempfile.mkdtemp(prefix=f"{name}.tmp-", dir=self.folder))
        try:
            with opened(unfinished) as descriptor:
                with suppress(OSError):  # the file system has no locks
                    fcntl.flock(descriptor, fcntl.LOCK_EX)  # released when the process ends, in whatever way
                write_files(unfinished, tensors, values)
                write_manifest(unfinished, step, self.identity)
                return self._publish(unfinished, name)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)  # does nothing once the folder has its final name

    def _publish(self, unfinished: Path, name: str) -> Path:
        """Rename the folder to its final name. If the process is killed between the two renames, the folder renamed to
        `.old-*` is used instead."""
        final, replaced = self.folder / name, self.folder / f"{name}.old-{secrets.token_hex(4)}"
        if final.exists():
            final.rename(replaced)
        unfinished.rename(final)
        sync(self.folder)
        self._damaged.discard(final)
        _discard(replaced)
        return final

    def _by_age(self) -> list[Path]:
        return folders_by_age(self.folder)

    def _prune(self, step: int) -> None:
        """Delete older steps. Later steps stay: they are damaged, or of a training that this one does not continue."""
        folders = [folder for folder in self._by_age() if _step(folder) <= step]
        kept = [folder for folder in folders if folder not in self._damaged][:KEPT]
        for folder in folders:
            if folder not in kept:
                _discard(folder)

    def _delete_abandoned(self) -> None:
        """Delete what killed processes left behind, except for a replaced folder whose replacement is missing."""
        for folder in self.folder.iterdir():
            if not (match := LEFT_BEHIND.fullmatch(folder.name)):
                continue
            with suppress(FileNotFoundError):  # another process deletes them too
                if match[2] == "tmp" and _is_abandoned(folder):
                    shutil.rmtree(folder, ignore_errors=True)
                elif match[2] == "old" and has_manifest(self.folder / match[1]):
                    _discard(folder)


def folders_by_age(store: Path) -> list[Path]:
    """The folders of steps in a store, newest first; of the same step, the replaced one comes last."""
    folders = [folder for folder in store.iterdir() if SAVED.fullmatch(folder.name)]
    return sorted(filter(has_manifest, folders), key=lambda folder: (-_step(folder), folder.name))


def best_beside(checkpoint: Checkpoint) -> Checkpoint | None:
    """The best checkpoint of the store that holds a checkpoint, if there is one and it is undamaged."""
    for folder in _best_folders(checkpoint.folder.parent):
        with suppress(ValueError):
            return read_checkpoint(folder)
    return None


def _best_folders(store: Path) -> list[Path]:
    """The best checkpoint of a store, then those that a process left when it was killed between its two renames."""
    return list(filter(has_manifest, (store / BEST, *sorted(store.glob(f"{BEST}.old-*")))))


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-").split(".")[0])


def _is_abandoned(folder: Path) -> bool:
    age, limit = time.time() - folder.stat().st_mtime, SECONDS_TO_LOCK
    try:
        with opened(folder) as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # a process that saves holds the lock, or the file system has no locks
        limit = SECONDS_UNFINISHED
    return age > limit


def _discard(folder: Path) -> None:
    """Delete a folder that may be a valid checkpoint, so that it is not one while it is half deleted."""
    renamed = folder.with_name(f"{folder.name.split('.')[0]}.tmp-{secrets.token_hex(4)}")
    with suppress(OSError):  # it is missing, or the next cleanup will delete it
        folder.rename(renamed)
        shutil.rmtree(renamed, ignore_errors=True)
