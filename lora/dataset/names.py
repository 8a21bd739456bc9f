"""What files are called inside an archive: which of them a person put there, and how names are compared and shown.

A name from an archive is only ever compared and shown. Nothing on disk is called by it.
"""

import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

JUNK_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon?"})  # Icon and a carriage return, on macOS
JUNK_FOLDERS = frozenset({"__macosx", "$recycle.bin", "system volume information"})
MOST_BYTES_OF_A_PART = 200  # file systems take 255, and a suffix comes after it
# Categories of Unicode: controls, marks that turn or hide text, halves of a character, ends of lines.
UNPRINTABLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
JOINERS = "\u200c\u200d"  # in Persian and Hindi words, and in emoji
RESERVED = str.maketrans(dict.fromkeys('<>:"|?*', "_"))  # which Windows does not write
MOST_SHOWN = 200  # letters of a name in an error

Wanted = Callable[[str], bool]  # of a name


@dataclass(frozen=True, slots=True)
class PackedFile:
    """A file inside an archive, with its content in blocks, which can be read once."""

    name: str
    blocks: Iterator[bytes]


def is_user_file(name: str) -> bool:
    """Whether a person put it there: not hidden, and not what macOS or Windows adds, at any depth."""
    parts = path_of(name).parts
    if not parts or any(part.startswith(".") and part != ".." for part in parts):
        return False
    return parts[-1].lower() not in JUNK_FILES and not any(part.lower() in JUNK_FOLDERS for part in parts)


def path_of(name: str) -> PurePosixPath:
    """A name as a path, however its folders are separated and its accents are spelled."""
    return PurePosixPath(unicodedata.normalize("NFC", name.replace("\\", "/")))


def suffix_of(name: str) -> str:
    """The suffix in lower case, with its dot; empty if there is none."""
    return path_of(name).suffix.lower()


def inside(name: str) -> PurePosixPath:
    """A name as a path that can be written below any folder of any system: no way up, no drive, no endless part.

    Applied to its own result, it changes nothing.
    """
    parts = [_writable(part) for part in path_of(name).parts]
    return PurePosixPath(*[part for part in parts if part.strip("./ ")] or ["_"])


def _writable(part: str) -> str:
    text = part.encode("utf-8", "replace").decode("utf-8").translate(RESERVED)
    return text.encode()[:MOST_BYTES_OF_A_PART].decode("utf-8", "ignore")


def printable(name: str) -> str:
    """The name without what no terminal or JSON takes: bytes that are no text, and control characters."""
    if name.isprintable():
        return name
    return "".join(
        "?" if unicodedata.category(character) in UNPRINTABLE and character not in JOINERS else character
        for character in name
    )


def quoted(name: str) -> str:
    """The name as an error shows it: in quotes, and not without end."""
    return repr(name if len(name) <= MOST_SHOWN else f"{name[:MOST_SHOWN]}…")
