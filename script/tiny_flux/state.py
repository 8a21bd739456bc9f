"""The folder with the state of a build between its runs: one file per stage, replaced atomically."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

Tensors = dict[str, Any]  # nested dicts, lists and tuples of tensors and plain values, as a `state_dict()` is


class OtherSettingsError(ValueError):
    """The folder contains the state of a build with other settings."""


@dataclass(frozen=True, slots=True)
class StageState:
    """The number of completed steps of a stage, and the state of its trainer."""

    step: int
    trainer: Tensors


class StateFolder:
    """Saves and loads the states of the stages of one build. Its files load without executing pickled code."""

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path = path

    def save(self, stage: str, settings: object, state: StageState) -> None:
        """Replace the saved state of a stage. `settings` are those that the stage was started with."""
        content = {"settings": repr(settings), "step": state.step, "trainer": state.trainer}
        with replaced_file(self._file(stage)) as partial:
            torch.save(content, partial)

    def load(self, stage: str, settings: object) -> StageState | None:
        """Return the saved state of a stage, or None if there is none.

        Raises OtherSettingsError if the stage was started with other settings.
        """
        path = self._file(stage)
        if not path.exists():
            return None
        content = torch.load(path, weights_only=True, map_location="cpu")
        if content["settings"] != repr(settings):
            raise OtherSettingsError(
                f"{path} is the state of a build with other settings: {content['settings']}, now {settings}. "
                "Use another folder (--state), or delete this file and those of the stages after it."
            )
        return StageState(content["step"], content["trainer"])

    def _file(self, stage: str) -> Path:
        return self.path / f"{stage}.pt"


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """Yield a file to write. At the end of the context it is synced to disk and replaces `path` atomically."""
    partial = path.with_suffix(path.suffix + ".partial")
    yield partial
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    partial.replace(path)
