"""Records a training in files that TensorBoard reads, by TensorBoard's own writer, which needs neither torch nor TF."""

import time
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from lora.reporting.trackers.tracker import Settings


class TensorBoardFiles:
    """Event files in a folder. `tensorboard --logdir FOLDER` shows them, also while the training runs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def start(self, settings: Settings) -> None:
        """Open the file, and write the settings as a table. Raises ImportError without the package tensorboard."""
        from tensorboard.plugins.text.summary import text_pb  # noqa: PLC0415 - an optional package
        from tensorboard.summary.writer.event_file_writer import EventFileWriter  # noqa: PLC0415

        self._writer = EventFileWriter(str(self._folder))
        rows = "\n".join(f"| {name} | {_cell(value)} |" for name, value in settings.items())
        self._add(0, text_pb("settings", f"| setting | value |\n|---|---|\n{rows}"))

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers."""
        from tensorboard.compat.proto.summary_pb2 import Summary  # noqa: PLC0415

        self._add(step, Summary(value=[Summary.Value(tag=name, simple_value=each) for name, each in values.items()]))

    def image(self, step: int, name: str, path: Path) -> None:
        """Write an image as it is."""
        from tensorboard.compat.proto.summary_pb2 import Summary  # noqa: PLC0415

        with Image.open(path) as image:
            width, height = image.size
        encoded = Summary.Image(
            height=height, width=width, colorspace=3, encoded_image_string=path.read_bytes()
        )  # 3 is RGB
        self._add(step, Summary(value=[Summary.Value(tag=name, image=encoded)]))

    def end(self) -> None:
        """Write what is left."""
        self._writer.close()

    def _add(self, step: int, summary: object) -> None:
        from tensorboard.compat.proto.event_pb2 import Event  # noqa: PLC0415

        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))


def _cell(value: object) -> str:
    """A value in a cell of a Markdown table."""
    return " ".join(str(value).replace("|", "\\|").split())
