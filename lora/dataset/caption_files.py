"""Reads the captions from the files of an archive that may hold some. Decides by content."""

import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import PurePosixPath

from lora.dataset.archive import Member, Skipped
from lora.dataset.caption_hints import seems_to_have_captions
from lora.dataset.caption_records import AmbiguousError, Row, caption_in
from lora.dataset.caption_tables import SUFFIXES as TABLE_SUFFIXES
from lora.dataset.caption_tables import is_table, parsed_json, read_table
from lora.dataset.file_kinds import NEITHER
from lora.dataset.image_names import ImageNames
from lora.dataset.limits import MEBIBYTE
from lora.dataset.names import path_of, quoted, sanitize_path, suffix_of
from lora.dataset.pairing import Caption
from lora.dataset.refusal import ContentError
from lora.dataset.rich_text import is_rich_text, plain_text
from lora.dataset.text_files import Text, decode_text

# .caption is the default of sd-scripts; .rtf is what TextEdit saves.
SUFFIXES = (".txt", ".caption", ".cap", ".text", ".rtf")
RANK_OF_JSON = len(SUFFIXES)  # of a JSON file beside its image
RANK_BESIDE_REFERENCE = RANK_OF_JSON + 1  # of a file beside the reference of an image
RANK_OF_TABLES = RANK_BESIDE_REFERENCE + 1
MAX_CAPTION_BYTES = 64 * 1024  # 512 tokens of T5 are about 3 KiB
MAX_TABLE_BYTES = 32 * MEBIBYTE
MAX_TEXT_BYTES = 64 * MEBIBYTE  # in total
MAX_CAPTIONS = 100_000  # a table may belong to a larger data set
WEB_PAGE = ("<!doc", "<html")  # as a server sends in place of a file that it does not have
ENOUGH = 0.5  # of the rows, or of the images, if the name of a table does not tell that it has captions; our choice


@dataclass(frozen=True, slots=True)
class GuessedEncoding:
    """A file that is not UTF-8, and the encoding it was decoded with."""

    name: str
    encoding: str


@dataclass(frozen=True, slots=True)
class CaptionFiles:
    """The captions of some files, and what is to be said about the files."""

    captions: tuple[Caption, ...] = ()
    unreadable: tuple[Skipped, ...] = ()  # and files that hold no captions
    suspected: tuple[Skipped, ...] = ()  # captions seem to be in them; the reason says what to do
    empty: tuple[str, ...] = ()
    blank: tuple[Caption, ...] = ()  # of empty files beside images
    guessed_encodings: tuple[GuessedEncoding, ...] = ()

    @classmethod
    def joined(cls, parts: Sequence["CaptionFiles"]) -> "CaptionFiles":
        """All that several have, in order."""
        every = (chain.from_iterable(getattr(part, each.name) for part in parts) for each in fields(cls))
        return cls(*map(tuple, every))


def is_caption_file(name: str) -> bool:
    """Whether a file may hold captions, according to its name."""
    return suffix_of(name) in (*SUFFIXES, *TABLE_SUFFIXES)


def is_of_one_image(caption: Caption) -> bool:
    """Whether a caption was read from a file beside its image, not from a table."""
    return caption.rank < RANK_OF_TABLES


def read_captions(members: Iterable[Member], images: ImageNames) -> CaptionFiles:
    """Read the captions of all caption files; tables with any name if they have captions of `images`.

    Raises ContentError if a table that is meant for captions cannot be read, or if there are too many captions.
    """
    found, left, count = [], MAX_TEXT_BYTES, 0
    for member in members:
        left -= member.path.stat().st_size if is_meant_for_captions(member.name) else 0
        if left < 0:
            raise ContentError(f"holds more than {MAX_TEXT_BYTES:,} bytes of captions: expected at most that")
        found.append(_read(member, images))
        count += len(found[-1].captions)
        if count > MAX_CAPTIONS:
            raise ContentError(f"holds more than {MAX_CAPTIONS:,} captions: expected at most that")
    return CaptionFiles.joined(found)


def is_meant_for_captions(name: str) -> bool:
    """Whether a file is there for its captions, whatever its content."""
    return suffix_of(name) in SUFFIXES or is_table(name)


def _read(member: Member, images: ImageNames) -> CaptionFiles:
    name, content = member.name, ""
    try:
        text = _text(member)
        content = plain_text(text.content) if is_rich_text(text.content) else text.content
        captions = tuple(_captions(name, content, images))
    except ValueError as error:
        if is_table(name) or isinstance(error, AmbiguousError):
            raise ContentError(f"holds {quoted(name)}, which cannot be read as captions: {error}") from error
        return _explained(name, content, images, str(error))
    written = tuple(caption for caption in captions if caption.text.strip())
    if written:
        guessed = () if text.encoding.startswith("utf") else (GuessedEncoding(name, text.encoding),)
        return CaptionFiles(captions=written, guessed_encodings=guessed)
    if captions or is_table(name):
        return CaptionFiles(empty=(name,), blank=tuple(filter(is_of_one_image, captions)))
    return _explained(name, content, images, "it names no image of the archive")


def _explained(name: str, content: str, images: ImageNames, problem: str) -> CaptionFiles:
    """Why a file has no captions: a problem only if there should be some."""
    if suffix_of(name) in SUFFIXES:
        return CaptionFiles(unreadable=(Skipped(name, problem),))
    if seems_to_have_captions(name, content, images):
        return CaptionFiles(suspected=(Skipped(name, problem),))
    return CaptionFiles(unreadable=(Skipped(name, NEITHER),))


def _text(member: Member) -> Text:
    most = MAX_CAPTION_BYTES if suffix_of(member.name) in SUFFIXES else MAX_TABLE_BYTES
    size = member.path.stat().st_size
    if size > most:
        raise ValueError(f"it has {size:,} bytes: expected at most {most:,}")
    text = decode_text(member.path.read_bytes())
    if text.content.lstrip()[:5].lower() in WEB_PAGE:
        raise ValueError("it is a web page")
    return text


def _captions(name: str, text: str, images: ImageNames) -> Iterator[Caption]:
    """The captions of one file. One that is there for its image has one, which may be empty."""
    path, suffix = path_of(name), suffix_of(name)
    target, beside = _target_of_file(path, images), _text_beside(name, text, images)
    if beside is not None:
        rank = SUFFIXES.index(suffix) if suffix in SUFFIXES else RANK_OF_JSON
        yield Caption(beside, name, sanitize_path(str(target)), rank)
        return
    rows = read_table(name, text, images)
    kind = TABLE_SUFFIXES.index(suffix) if suffix in TABLE_SUFFIXES else len(TABLE_SUFFIXES)
    is_of_one = len(rows) == 1 and not is_table(name)  # as photo.jpg.supplemental-metadata.json of a photo service
    rank = RANK_OF_JSON if is_of_one else RANK_OF_TABLES + kind
    if is_table(name) or _are_enough(rows, images):
        yield from (Caption(row.text, name, _target_of_row(path.parent, row, images), rank) for row in rows)


def _text_beside(name: str, text: str, images: ImageNames) -> str | None:
    """The caption in a file for one image, or None if the file is a table."""
    suffix = suffix_of(name)
    is_beside = images.stem(_target_of_file(path_of(name), images).name) is not None
    if is_beside and text.lstrip().startswith("{") and suffix in (*SUFFIXES, ".json"):
        caption = _caption_in_json(text, must_parse=suffix == ".json")
        if caption is not None:
            return caption
    if suffix not in SUFFIXES:
        return None
    return None if not is_beside and _is_table_of(text, images) else text


def _caption_in_json(text: str, *, must_parse: bool) -> str | None:
    """The caption in a JSON object such as ai-toolkit's `photo.json`, or None if there is none."""
    try:
        content = parsed_json(text)
    except ValueError:
        if must_parse:
            raise
        return None
    return caption_in(content) if isinstance(content, dict) else None


def _is_table_of(text: str, images: ImageNames) -> bool:
    """Whether a text, such as Flickr8k's captions.txt, is a table of captions of the images."""
    try:
        return _are_enough(read_table("", text, images), images)
    except ValueError:
        return False


def _are_enough(rows: list[Row], images: ImageNames) -> bool:
    known = sum(images.stem(row.file_name) is not None for row in rows)
    return known > 0 and known >= ENOUGH * min(len(rows), len(images.stems))


def _target_of_file(path: PurePosixPath, images: ImageNames) -> PurePosixPath:
    """The path of the image: without the suffixes of captions, of which Windows and editors append a second one."""
    path = path.with_suffix("")
    while path.suffix.lower() in SUFFIXES and images.stem(path.name) is None:
        path = path.with_suffix("")
    return images.target(path)


def _target_of_row(folder: PurePosixPath, row: Row, images: ImageNames) -> PurePosixPath:
    """The path of the image: file names in a table are relative to the folder of the table."""
    path = posixpath.normpath(folder / str(path_of(row.file_name)).lstrip("/"))
    return images.target(sanitize_path(path))
