"""File names inside archives: which of them belong to the user, and how names are compared and printed.

Names from an archive are only compared and printed; no file on disk gets such a name.
"""

import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

JUNK_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon?"})  # "icon?": Icon and \r, from macOS
JUNK_FOLDERS = frozenset({"__macosx", "$recycle.bin", "system volume information", "@eadir", "#recycle"})
MAX_BYTES_OF_A_PART = 200  # file systems allow 255, and a suffix is appended
# Unicode categories: controls, format characters, surrogates, line and paragraph separators.
UNPRINTABLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
JOINERS = "\u200c\u200d"  # used in Persian and Hindi words, and in emoji
RESERVED = str.maketrans(dict.fromkeys('<>:"|?*', "_"))  # not allowed in file names on Windows
MAX_SHOWN = 200  # letters of a name in an error
MAX_FOLDERS = 16  # of a path that are compared, from the innermost outwards

NameFilter = Callable[[str], bool]  # takes the name of a file


@dataclass(frozen=True, slots=True)
class Listed:
    """A file that an archive holds, before it is unpacked."""

    name: str
    size: int  # bytes, as the archive declares it
    head: bytes  # its first bytes, or none if they were not asked for or cannot be read


@dataclass(frozen=True, slots=True)
class PackedFile:
    """A file inside an archive. The iterator over its content can be consumed once."""

    name: str
    blocks: Iterator[bytes]


def is_user_file(name: str) -> bool:
    """Whether a file belongs to the user: neither hidden nor added by macOS, Windows or a NAS, at any depth."""
    parts = path_of(name).parts
    if not parts or any(part.startswith(".") and part != ".." for part in parts):
        return False
    return parts[-1].lower() not in JUNK_FILES and not any(part.lower() in JUNK_FOLDERS for part in parts)


def path_of(name: str) -> PurePosixPath:
    """The name as a path, with forward slashes and in Unicode normal form NFC."""
    return PurePosixPath(unicodedata.normalize("NFC", name.replace("\\", "/")))


def suffix_of(name: str) -> str:
    """The suffix in lower case, with its dot; empty if the name has none."""
    return path_of(name).suffix.lower()


def sanitize_path(name: str) -> PurePosixPath:
    """Convert a name to a relative path that is safe on any operating system: no `..`, no drive, no overlong part.

    The function is idempotent.
    """
    parts = [_sanitized(part) for part in path_of(name).parts]
    return PurePosixPath(*[part for part in parts if part.strip("./ ")] or ["_"])


def _sanitized(part: str) -> str:
    text = part.encode("utf-8", "replace").decode("utf-8").translate(RESERVED)
    return text.encode()[:MAX_BYTES_OF_A_PART].decode("utf-8", "ignore")


def printable(name: str) -> str:
    """The name with undecodable bytes and control characters replaced, so that it is safe in a terminal and in JSON."""
    if name.isprintable():
        return name
    return "".join(
        "?" if unicodedata.category(character) in UNPRINTABLE and character not in JOINERS else character
        for character in name
    )


def quoted(name: str) -> str:
    """The name as an error prints it: in quotes, and truncated."""
    return repr(name if len(name) <= MAX_SHOWN else f"{name[:MAX_SHOWN]}…")
