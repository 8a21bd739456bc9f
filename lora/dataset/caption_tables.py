"""Parses files with captions of many images: metadata.jsonl, captions.json, captions.csv and others."""

import csv
import io
import json
import re
import reprlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import zip_longest

from lora.dataset.names import path_of, quoted, suffix_of
from lora.dataset.refusal import ContentError
from lora.dataset.wording import named

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv")
# metadata.json is excluded: photo services put a file of that name, without captions, into every album.
NAMES = frozenset({f"captions{suffix}" for suffix in SUFFIXES} | {"metadata.jsonl", "metadata.csv", "metadata.tsv"})
MAX_LETTERS = 64 * 1024  # per caption
NAME_KEYS = ("file_name", "filename", "file", "image", "image_file", "image_name", "path", "name")
TEXT_KEYS = ("text", "caption", "prompt", "description")
DELIMITERS = ",;\t|"
QUOTED = re.compile('"[^"]*"')


@dataclass(frozen=True, slots=True)
class Row:
    """A caption and the name of its image file, as the table gives it."""

    file_name: str
    text: str


def is_table(name: str) -> bool:
    """Whether a file is a caption table, according to its name."""
    return path_of(name).name.lower() in NAMES


def read_table(name: str, text: str) -> Iterator[Row]:
    """Yield the rows of a table that have text, in the format of its suffix; raises ContentError if it cannot be
    parsed."""
    readers: dict[str, Callable[[str], Iterator[Row]]] = {".jsonl": _json_lines, ".json": _json, ".csv": _csv}
    try:
        yield from (row for row in readers.get(suffix_of(name), _csv)(text) if row.text.strip())
    except (ValueError, RecursionError, csv.Error) as error:
        raise ContentError(f"holds {quoted(name)}, which cannot be read as captions: {error}") from error


def _json_lines(text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield _row(_parsed(line))
            except (ValueError, RecursionError) as error:
                raise ValueError(f"line {number}: {error}") from error


def _json(text: str) -> Iterator[Row]:
    content = _parsed(text)
    if isinstance(content, list):
        yield from map(_row, content)
    elif isinstance(content, dict):
        for name, caption in content.items():
            yield _row(caption | {NAME_KEYS[0]: name}) if isinstance(caption, dict) else _checked(name, caption)
    else:
        raise ValueError('expected {"photo.jpg": "its caption"}')


def _parsed(text: str) -> object:
    return json.loads(text, object_pairs_hook=_unique_object)


def _unique_object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Build an object, and raise ValueError for a duplicate key; the JSON parser would silently keep the last value."""
    entries: dict[str, object] = {}
    for name, value in pairs:
        if name in entries:
            raise ValueError(f"{quoted(name)} is there twice: expected one entry for each name")
        entries[name] = value
    return entries


def _csv(text: str) -> Iterator[Row]:
    """Parse a table with a header row, or one of two columns: name, caption. In many locales, spreadsheets use `;` as
    the delimiter, and captions often contain unquoted commas."""
    delimiter = _delimiter(text)
    lines = [cells for cells in csv.reader(io.StringIO(f"{text.strip()}\n"), delimiter=delimiter) if any(cells)]
    _refuse_misread(text, lines)
    header = [cell.strip().lower().replace(" ", "_") for cell in lines[0]] if lines else []
    if not (set(header) & set(NAME_KEYS) and set(header) & set(TEXT_KEYS)):
        if set(header) & set(NAME_KEYS):
            raise ValueError(f"its columns are {named(header)}: expected one of {', '.join(TEXT_KEYS)}")
        header = [NAME_KEYS[0], TEXT_KEYS[0]]
        lines.insert(0, header)
    for number, cells in enumerate(lines[1:], 2):
        if len(cells) > len(header) and header[-1] not in TEXT_KEYS:
            raise ValueError(f"row {number} has {len(cells)} columns: expected {len(header)} as in the first row")
        # Excel omits empty cells at the end of a row.
        yield _row(dict(zip_longest(header, _merge_last_cells(cells, delimiter, into=len(header)), fillvalue="")))


def _delimiter(text: str) -> str:
    head = QUOTED.sub("", text.lstrip().partition("\n")[0])
    return next((character for character in head if character in DELIMITERS), ",")


def _refuse_misread(text: str, lines: list[list[str]]) -> None:
    """Raise ValueError for text that the CSV reader accepts but misinterprets."""
    if lines and max(map(len, lines)) == 1:
        raise ValueError(f"its first row is {quoted(lines[0][0])}: expected two columns, file_name,text")
    if lines and lines[-1][-1].endswith("\n") and not text.rstrip().endswith('"'):
        raise ValueError(f"the row of {quoted(lines[-1][0])} opens a quotation mark: expected a closing one")


def _merge_last_cells(cells: list[str], delimiter: str, *, into: int) -> list[str]:
    return [*cells[: into - 1], delimiter.join(cells[into - 1 :])] if len(cells) > into else cells


def _row(entry: object) -> Row:
    if not isinstance(entry, dict):
        raise ValueError(f'found {_short_repr(entry)}: expected {{"file_name": "photo.jpg", "text": "its caption"}}')
    name_key = next((key for key in NAME_KEYS if key in entry), None)
    text_key = next((key for key in TEXT_KEYS if key in entry), None)
    if name_key is None or text_key is None:
        raise ValueError(f"found {named(list(entry)) or 'nothing'}: expected file_name and text")
    return _checked(entry[name_key], entry[text_key])


def _checked(name: object, text: object) -> Row:
    """Check the types and the length; null counts as an empty caption."""
    text = "" if text is None else text
    if not isinstance(name, str) or not isinstance(text, str):
        raise ValueError(f"the caption of {_short_repr(name)} is {_short_repr(text)}: expected text")
    if len(text) > MAX_LETTERS:
        raise ValueError(
            f"the caption of {quoted(name)} has {len(text):,} characters: expected at most {MAX_LETTERS:,}"
        )
    return Row(name.strip(), text)


def _short_repr(value: object) -> str:
    return reprlib.repr(value)
