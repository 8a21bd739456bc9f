"""Captions of many images in one file: metadata.jsonl, captions.json, captions.csv and the like. Text in, rows out."""

import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from lora.dataset.names import path_of, suffix_of
from lora.dataset.refusal import ContentError

STEMS = frozenset({"metadata", "captions"})
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv")
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
    return path_of(name).stem.lower() in STEMS and suffix_of(name) in SUFFIXES


def read_table(name: str, text: str) -> list[Row]:
    """The rows of a table by its suffix; raises ContentError if it is not of a form that is read."""
    readers = {".jsonl": _lines_of_json, ".json": _json, ".csv": _csv, ".tsv": _csv}
    try:
        return [row for row in readers[suffix_of(name)](text) if row.text.strip()]
    except (ValueError, RecursionError, csv.Error) as error:
        raise ContentError(f"holds {name!r}, which cannot be read as captions: {error}") from error


def _lines_of_json(text: str) -> Iterator[Row]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                yield _row(json.loads(line))
            except (ValueError, RecursionError) as error:
                raise ValueError(f"line {number}: {error}") from error


def _json(text: str) -> Iterator[Row]:
    content = json.loads(text)
    if isinstance(content, list):
        yield from map(_row, content)
    elif isinstance(content, dict):
        for name, caption in content.items():
            yield _row(caption | {NAME_KEYS[0]: name}) if isinstance(caption, dict) else _checked(name, caption)
    else:
        raise ValueError('expected {"photo.jpg": "its caption"}')


def _csv(text: str) -> Iterator[Row]:
    """With a line of headings, or else of two columns: name, caption. Spreadsheets of half the world separate by `;`,
    and captions have commas that nobody put in quotes."""
    head = QUOTED.sub("", text.lstrip().partition("\n")[0])
    delimiter = next((character for character in head if character in DELIMITERS), ",")
    lines = [cells for cells in csv.reader(io.StringIO(text.strip()), delimiter=delimiter) if any(cells)]
    headings = [cell.strip().lower() for cell in lines[0]] if lines else []
    if not (set(headings) & set(NAME_KEYS) and set(headings) & set(TEXT_KEYS)):
        headings = [NAME_KEYS[0], TEXT_KEYS[0]]
        lines.insert(0, headings)
    for number, cells in enumerate(lines[1:], 2):
        if len(cells) > len(headings) and headings[-1] not in TEXT_KEYS:
            raise ValueError(f"row {number} has {len(cells)} columns: expected {','.join(headings)}")
        yield _row(dict(zip(headings, _folded(cells, delimiter, into=len(headings)), strict=False)))


def _folded(cells: list[str], delimiter: str, *, into: int) -> list[str]:
    return [*cells[: into - 1], delimiter.join(cells[into - 1 :])] if len(cells) > into else cells


def _row(entry: object) -> Row:
    if not isinstance(entry, dict):
        raise ValueError('expected {"file_name": "photo.jpg", "text": "its caption"}')
    name = next((entry[key] for key in NAME_KEYS if key in entry), None)
    text = next((entry[key] for key in TEXT_KEYS if key in entry), None)
    if name is None or text is None:
        found = ", ".join(map(str, entry))[:100]
        raise ValueError(f"found {found or 'nothing'}: expected file_name and text")
    return _checked(name, text)


def _checked(name: object, text: object) -> Row:
    if not isinstance(name, str) or not isinstance(text, str):
        raise ValueError(f"the caption of {name!r} is {str(text)[:40]}: expected text")
    return Row(name, text)
