"""Earlier runs on this machine, known by the manifests of their checkpoints alone: what a training could resume from.

Nothing else of a checkpoint is read here, so that a line in the log costs no reading of gigabytes.
"""

import os
import reprlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lora.dataset.names import printable
from lora.training.checkpoints.files import read_manifest
from lora.training.checkpoints.folder import checkpoints_folder
from lora.training.checkpoints.identity import Difference, Json, differences
from lora.training.checkpoints.store import folders_by_age

LATEST = "latest"
MOST_DIFFERENCES = 3  # between trainings that are probably meant to be the same; our choice


@dataclass(frozen=True, slots=True)
class EarlierRun:
    """The newest checkpoint of a run."""

    checkpoint: Path
    step: int
    identity: Json


def saved_by_this_process(since: float) -> EarlierRun | None:
    """The newest checkpoint that this process saved after `since`, in seconds since the epoch; None without one.

    The number of the process alone does not tell it: in a container, each process may have the number of an earlier
    one.
    """
    runs = checkpoints_folder().glob(f"*/*-{os.getpid()}")
    found = [run for run in _newest_of(runs) if run.checkpoint.stat().st_mtime >= since]
    return max(found, key=lambda run: run.step, default=None)


def lines_on_earlier_runs(identity: Json, *, is_latest: bool) -> Iterator[str]:
    """Lines for the log of a training that starts at step 0: whether it could have resumed, or almost.

    `is_latest` is whether the training asked for the newest checkpoint, and there is none of its identity.
    """
    runs = list(_newest_of(checkpoints_folder().glob("*/*")))
    if not is_latest:
        same = [run for run in runs if not any(differences(run.identity, identity))]
        if same:
            best = max(same, key=lambda run: run.step)
            yield (
                f"an earlier run of this training has a checkpoint at step {best.step}, in {best.checkpoint}: this run"
                f" starts from step 0; resume_from {LATEST} (script/train --resume) continues from the checkpoint"
            )
        return
    yield f"resume_from {LATEST}: this training has no checkpoint yet, so it starts from step 0"
    run = min(runs, key=lambda run: (_count(run, identity), -run.step), default=None)
    if run is not None and _count(run, identity) <= MOST_DIFFERENCES:
        changes = "; ".join(map(_described, differences(run.identity, identity)))
        found = f"the most similar training has a checkpoint at step {run.step}, in {run.checkpoint}"
        yield f"{found}; it differs in {changes}"


def _count(run: EarlierRun, identity: Json) -> int:
    return sum(1 for _ in differences(run.identity, identity))


def _newest_of(runs: Iterable[Path]) -> Iterator[EarlierRun]:
    """The newest checkpoint of each run that has one; other processes may delete runs at any moment."""
    for run in sorted(runs):
        try:
            newest = folders_by_age(run)[0]
            step, identity, _ = read_manifest(newest)
        except (OSError, ValueError, IndexError):
            continue
        yield EarlierRun(newest, step, identity)


def _described(difference: Difference) -> str:
    field = printable(difference.field)[:60]
    if field == "images_and_captions":
        return "images or captions"
    return f"{field} ({reprlib.repr(difference.found)} there, {reprlib.repr(difference.expected)} here)"
