"""Which files of this machine a request may name: those in a few folders. Says nothing about any other file."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

VARIABLE = "FLUX_LORA_FILES"
PROJECT = Path(__file__).resolve().parents[1]  # in a container /src, where `cog train` and `cog run` mount the project
FILE = "an https:// URL, a data URI"


@dataclass(frozen=True, slots=True)
class ReadableFolders:
    """Folders whose files, at any depth, a request may name."""

    folders: tuple[Path, ...]
    expected: str  # what else can be given, and where files may lie, for errors

    @classmethod
    def of_deployment(cls, *more: Path) -> Self:
        """The project, the folders of FLUX_LORA_FILES, and `more`. Raises ValueError if that setting is malformed."""
        setting = os.environ.get(VARIABLE, "")
        listed = tuple(Path(folder).expanduser() for folder in setting.split(os.pathsep) if folder.strip())
        if not all(folder.is_absolute() for folder in listed):
            raise ValueError(
                f"{VARIABLE} is {setting!r}: expected absolute paths of folders, with {os.pathsep} between"
            )
        expected = f"{FILE}, or a path in the project's folder or in a folder that {VARIABLE} lists"
        return cls((PROJECT, *listed, *more), expected)

    @classmethod
    def of_uploads(cls, folder: Path) -> Self:
        """The folder of uploads alone."""
        return cls((folder,), f"{FILE} or an uploaded file")

    def contain(self, path: Path) -> bool:
        """Whether a path leads into one of the folders, whether a file is there or not. Links and `..` are followed."""
        try:
            real = Path(os.path.realpath(path))
        except (OSError, ValueError):  # no path: a NUL character, half of a surrogate pair
            return False
        return any(real.is_relative_to(os.path.realpath(folder)) for folder in self.folders)


EVERYWHERE = ReadableFolders((Path("/"),), "a path")
