"""Which trackers record a training: those that the environment names, and Weights & Biases with a key."""

import os
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from lora.reporting.trackers.tensorboard_files import TensorBoardFiles
from lora.reporting.trackers.tracker import Tracker
from lora.reporting.trackers.trackio_run import TrackioRun
from lora.reporting.trackers.wandb_run import WandbRun, WandbTarget

VARIABLE, TENSORBOARD_VARIABLE = "FLUX_LORA_TRACKERS", "FLUX_LORA_TENSORBOARD"
TENSORBOARD, WANDB, TRACKIO = "tensorboard", "wandb", "trackio"  # names of their packages, too
TRACKERS = (TENSORBOARD, WANDB, TRACKIO)


def chosen_trackers(target: WandbTarget) -> dict[str, Tracker]:
    """The trackers by name. Raises ValueError with one sentence for an unknown name or a package that is missing."""
    names = [name.strip().lower() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]
    make: dict[str, Callable[[], Tracker]] = {
        TENSORBOARD: lambda: TensorBoardFiles(_own_folder(Path(os.environ.get(TENSORBOARD_VARIABLE, TENSORBOARD)))),
        WANDB: lambda: WandbRun(target),
        TRACKIO: lambda: TrackioRun(target.project, target.name),
    }
    for name in names:
        if name not in make:
            raise ValueError(f"{VARIABLE} names {name!r:.60}: expected some of {', '.join(TRACKERS)}")
    chosen = dict.fromkeys([*names, *([WANDB] if target.api_key else [])])
    for name in chosen:
        if find_spec(name) is None:
            raise ValueError(f"{name} is not installed: expected the package, e.g. by `pip install {name}`")
    return {name: make[name]() for name in chosen}


def _own_folder(folder: Path) -> Path:
    """A folder for this training: TensorBoard draws all files in one folder as one curve."""
    return folder / time.strftime("%Y%m%d-%H%M%S")
