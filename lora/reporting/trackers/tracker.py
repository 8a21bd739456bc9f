"""What a tracker does with a training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

Settings = Mapping[str, object]


class Tracker(Protocol):
    """Records one training. Every method may raise anything and may take long: see `Trackers`."""

    def start(self, settings: Settings) -> None:
        """Begin, with all settings of the training, none of which is a secret."""

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Record numbers of a step by their names. Steps come in order."""

    def image(self, step: int, name: str, path: Path) -> None:
        """Record an image of a step: a JPEG."""

    def end(self) -> None:
        """Finish: send or write what is left."""
