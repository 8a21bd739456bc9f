"""Reads the captions from the caption files of an archive. Knows nothing about images."""

import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath

from lora.dataset.archive import Member, Skipped
from lora.dataset.caption_tables import SUFFIXES as TABLE_SUFFIXES
from lora.dataset.caption_tables import Row, is_table, read_table
from lora.dataset.limits import MEBIBYTE
from lora.dataset.names import path_of, quoted, sanitize_path, suffix_of
from lora.dataset.pairing import Caption
from lora.dataset.refusal import ContentError
from lora.dataset.text_files import Text, decode_text

SUFFIXES = (".txt", ".caption")
MAX_CAPTION_BYTES = 64 * 1024  # 512 tokens of T5 are about 3 KiB
MAX_TABLE_BYTES = 32 * MEBIBYTE
MAX_TEXT_BYTES = 64 * MEBIBYTE  # in total
MAX_CAPTIONS = 100_000  # a table may belong to a larger data set


@dataclass(frozen=True, slots=True)
class GuessedEncoding:
    """A file that is not UTF-8, and the encoding it was decoded with."""

    name: str
    encoding: str


@dataclass(frozen=True, slots=True)
class CaptionFiles:
    """The captions of an archive, the files that could not be read, and those whose encoding was guessed."""

    captions: tuple[Caption, ...]
    unreadable: tuple[Skipped, ...]
    guessed_encodings: tuple[GuessedEncoding, ...]


def is_caption_file(name: str) -> bool:
    """Whether a file holds one or more captions, according to its name."""
    return suffix_of(name) in SUFFIXES or is_table(name)


def read_captions(members: Iterable[Member]) -> CaptionFiles:
    """Read the captions of all caption files. Raises ContentError if a caption table has an unsupported format, or if
    there are too many captions."""
    captions: list[Caption] = []
    left = MAX_TEXT_BYTES
    unreadable, guessed_encodings = [], []
    for member in members:
        left -= member.path.stat().st_size
        if left < 0:
            raise ContentError(f"holds more than {MAX_TEXT_BYTES:,} bytes of captions: expected at most that")
        try:
            text = _text(member)
        except ValueError as error:
            if is_table(member.name):
                raise ContentError(f"holds {quoted(member.name)}, which cannot be read as captions: {error}") from error
            unreadable.append(Skipped(member.name, str(error)))
            continue
        if not text.encoding.startswith("utf"):
            guessed_encodings.append(GuessedEncoding(member.name, text.encoding))
        captions += islice(_captions(member.name, text.content), MAX_CAPTIONS + 1 - len(captions))
        if len(captions) > MAX_CAPTIONS:
            raise ContentError(f"holds more than {MAX_CAPTIONS:,} captions: expected at most that")
    return CaptionFiles(tuple(captions), tuple(unreadable), tuple(guessed_encodings))


def _text(member: Member) -> Text:
    most = MAX_TABLE_BYTES if is_table(member.name) else MAX_CAPTION_BYTES
    size = member.path.stat().st_size
    if size > most:
        raise ValueError(f"it has {size:,} bytes: expected at most {most:,}")
    return decode_text(member.path.read_bytes())


def _captions(name: str, text: str) -> Iterator[Caption]:
    """The captions of one file, without empty ones."""
    path, suffix = path_of(name), suffix_of(name)
    if text.strip() and suffix in SUFFIXES:
        yield Caption(text, name, sanitize_path(str(path.with_suffix(""))), SUFFIXES.index(suffix))
    elif text.strip():
        rank = len(SUFFIXES) + TABLE_SUFFIXES.index(suffix)
        for row in read_table(name, text):
            yield Caption(row.text, name, _target(path.parent, row), rank)


def _target(folder: PurePosixPath, row: Row) -> PurePosixPath:
    """The path of the image: file names in a table are relative to the folder of the table."""
    return sanitize_path(posixpath.normpath(folder / str(path_of(row.file_name)).lstrip("/")))
