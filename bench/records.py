"""The results of a run as lines of JSON, each on the disk before the next measurement begins: a run that is cut off
leaves all that it has measured."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Record:
    """A line of a file of results."""

    stage: str  # the stage of the run that it is a result of
    kind: str
    values: Mapping[str, Any]


class RecordFile:
    """A new file of results."""

    def __init__(self, path: Path) -> None:
        """Create the file. Raises ValueError if it exists, as one run may not follow another, or has no folder."""
        self.path = path
        try:
            path.open("x").close()
        except FileExistsError:
            raise ValueError(
                f"output is {path}, which exists: expected a new file, so remove it or name another"
            ) from None
        except FileNotFoundError:
            raise ValueError(f"output is {path}, whose folder does not exist: expected one that does") from None

    def append(self, record: Record) -> None:
        """Add a line, and wait until it is on the disk."""
        with self.path.open("a") as file:
            file.write(json.dumps(asdict(record)) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> list[Record]:
        """All lines so far."""
        return read_records(self.path)


def read_records(path: Path) -> list[Record]:
    """The lines of a file, but for a last one that was cut off. Raises ValueError with one sentence if the file does
    not exist or is not one of results."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist: expected a file that script/gpu-run has written")
    *lines, cut_off = path.read_text().split("\n")
    del cut_off  # empty, if the file is complete
    try:
        return [Record(**json.loads(line)) for line in lines]
    except (json.JSONDecodeError, TypeError) as error:
        raise ValueError(f"{path} is not a file of results ({error}): expected one of script/gpu-run") from None
