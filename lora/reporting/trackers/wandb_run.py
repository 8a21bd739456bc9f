"""Records a training as a run of Weights & Biases. Neither code, console, machine nor packages are sent."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora.reporting.trackers.tracker import Settings

SECONDS_TO_CONNECT = 15.0  # less than the training waits for


@dataclass(frozen=True, slots=True)
class WandbTarget:
    """Where a run goes. The key is a secret, and never in a message."""

    api_key: str | None = field(repr=False)  # None leaves it to WANDB_API_KEY, or to `wandb login`
    project: str
    entity: str | None
    name: str | None


class WandbRun:
    """A run of Weights & Biases. WANDB_MODE, WANDB_BASE_URL and WANDB_DIR have their usual meaning; files of a run that
    is sent are deleted at the end, and those of an offline run stay for `wandb sync`."""

    def __init__(self, target: WandbTarget) -> None:
        self._target = target
        self._folder = tempfile.TemporaryDirectory(prefix="flux-lora-wandb-", ignore_cleanup_errors=True)

    def start(self, settings: Settings) -> None:
        """Start the run. Raises ImportError without the package wandb, and RuntimeError if the key is refused or the
        server does not answer."""
        import wandb  # noqa: PLC0415 - an optional package

        target = self._target
        options: dict[str, Any] = {
            "init_timeout": SECONDS_TO_CONNECT,
            "save_code": False,
            "console": "off",
            "silent": True,
            "disable_git": True,
        }
        options |= {
            "x_disable_meta": True,
            "x_disable_stats": True,
            "x_disable_machine_info": True,
            "x_save_requirements": False,
        }
        options |= {"api_key": target.api_key} if target.api_key else {}
        try:
            self._run = wandb.init(
                project=target.project,
                entity=target.entity,
                name=target.name,
                config=dict(settings),
                dir=None if _keeps_files() else self._folder.name,
                settings=wandb.Settings(**options),
            )
        except (wandb.Error, OSError, ValueError) as error:
            raise RuntimeError(_without(target.api_key, str(error))) from None

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Log numbers."""
        self._run.log(dict(values), step=step)

    def image(self, step: int, name: str, path: Path) -> None:
        """Log an image."""
        import wandb  # noqa: PLC0415

        self._run.log({name: wandb.Image(str(path))}, step=step)

    def end(self) -> None:
        """Send the rest, and end the run."""
        self._run.finish()
        self._folder.cleanup()


def _keeps_files() -> bool:
    return os.environ.get("WANDB_MODE") == "offline" or "WANDB_DIR" in os.environ


def _without(secret: str | None, text: str) -> str:
    return text.replace(secret, "**********") if secret else text
