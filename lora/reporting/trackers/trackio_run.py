"""Records a training with Trackio, in its local database: no account, no network. `trackio show` shows it."""

import contextlib
import io
from collections.abc import Mapping
from pathlib import Path

from lora.reporting.trackers.tracker import Settings


class TrackioRun:
    """A run of Trackio."""

    def __init__(self, project: str, name: str | None) -> None:
        self._project, self._name = project, name

    def start(self, settings: Settings) -> None:
        """Start the run. Raises ImportError without the package trackio."""
        import trackio  # noqa: PLC0415 - an optional package

        with contextlib.redirect_stdout(io.StringIO()):  # it prints how to use it
            self._run = trackio.init(
                self._project,
                name=self._name,
                config={name: str(value) for name, value in settings.items()},
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Log numbers."""
        self._run.log(dict(values), step=step)

    def image(self, step: int, name: str, path: Path) -> None:
        """Log an image."""
        import trackio  # noqa: PLC0415

        self._run.log({name: trackio.Image(path)}, step=step)

    def end(self) -> None:
        """Write what is left."""
        with contextlib.redirect_stdout(io.StringIO()):
            self._run.finish()
