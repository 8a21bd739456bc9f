"""Captions of many images in one file: metadata.jsonl, captions.json, captions.csv and the like. Text in, rows out."""

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
# Not metadata.json: photo services put one of their own into every album.
NAMES = frozenset({f"captions{suffix}" for suffix in SUFFIXES} | {"metadata.jsonl", "metadata.csv", "metadata.tsv"})
MOST_LETTERS = 64 * 1024  # of a caption
NAME_KEYS = ("file_name", "filename", "file", "image", "image_file", "image_name", "path", "name")
TEXT_KEYS = ("text", "caption", "prompt", "description")
DELIMITERS = ",;\t|"
QUOTED = re.compile('"[^"]*"')


@dataclass(frozen=True, slots=True)
class Row:
    """A caption and the file it is said to belong to."""

    file_name: str
    text: str


def is_table(name: str) -> bool:
    """Whether a file's name says that it holds captions of other files."""
    return path_of(name).name.lower() in NAMES


def read_table(name: str, text: str) -> Iterator[Row]:
    """The rows of a table by its suffix, without those of no text; raises ContentError if it is not of a form that is
    read."""
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
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Of two entries of one name JSON would keep the last, and say nothing."""
    entries: dict[str, object] = {}
    for name, value in pairs:
        if name in entries:
            raise ValueError(f"{quoted(name)} stands there twice: expected one entry of a name")
        entries[name] = value
    return entries


def _csv(text: str) -> Iterator[Row]:
    """With a line of headings, or else of two columns: name, caption. Spreadsheets of half the world separate by `;`,
    and captions have commas that nobody put in quotes."""
    delimiter = _delimiter(text)
    lines = [cells for cells in csv.reader(io.StringIO(f"{text.strip()}\n"), delimiter=delimiter) if any(cells)]
    _refuse_misread(text, lines)
    headings = [cell.strip().lower().replace(" ", "_") for cell in lines[0]] if lines else []
    if not (set(headings) & set(NAME_KEYS) and set(headings) & set(TEXT_KEYS)):
        if set(headings) & set(NAME_KEYS):
            raise ValueError(f"its columns are {named(headings)}: expected one of {', '.join(TEXT_KEYS)}")
        headings = [NAME_KEYS[0], TEXT_KEYS[0]]
        lines.insert(0, headings)
    for number, cells in enumerate(lines[1:], 2):
        if len(cells) > len(headings) and headings[-1] not in TEXT_KEYS:
            raise ValueError(f"row {number} has {len(cells)} columns: expected {len(headings)} as in the first row")
        # Excel leaves out empty cells at the end of a row.
        yield _row(dict(zip_longest(headings, _folded(cells, delimiter, into=len(headings)), fillvalue="")))


def _delimiter(text: str) -> str:
    head = QUOTED.sub("", text.lstrip().partition("\n")[0])
    return next((character for character in head if character in DELIMITERS), ",")


def _refuse_misread(text: str, lines: list[list[str]]) -> None:
    """Raises ValueError where the reader would be content with what nobody meant."""
    if lines and max(map(len, lines)) == 1:
        raise ValueError(f"its first row is {quoted(lines[0][0])}: expected two columns, file_name,text")
    if lines and lines[-1][-1].endswith("\n") and not text.rstrip().endswith('"'):
        raise ValueError(f"the row of {quoted(lines[-1][0])} opens a quotation mark: expected another that closes it")


def _folded(cells: list[str], delimiter: str, *, into: int) -> list[str]:
    return [*cells[: into - 1], delimiter.join(cells[into - 1 :])] if len(cells) > into else cells


def _row(entry: object) -> Row:
    if not isinstance(entry, dict):
        raise ValueError(f'found {_shown(entry)}: expected {{"file_name": "photo.jpg", "text": "its caption"}}')
    name_key = next((key for key in NAME_KEYS if key in entry), None)
    text_key = next((key for key in TEXT_KEYS if key in entry), None)
    if name_key is None or text_key is None:
        raise ValueError(f"found {named(list(entry)) or 'nothing'}: expected file_name and text")
    return _checked(entry[name_key], entry[text_key])


def _checked(name: object, text: object) -> Row:
    """A caption that is null is none."""
    text = "" if text is None else text
    if not isinstance(name, str) or not isinstance(text, str):
        raise ValueError(f"the caption of {_shown(name)} is {_shown(text)}: expected text")
    if len(text) > MOST_LETTERS:
        raise ValueError(f"the caption of {quoted(name)} has {len(text):,} letters: expected at most {MOST_LETTERS:,}")
    return Row(name.strip(), text)


def _shown(value: object) -> str:
    return reprlib.repr(value)
