"""Parses files with captions of many images: metadata.jsonl, captions.json, captions.csv and others."""

import csv
import io
import json
import re
from collections.abc import Callable
from itertools import zip_longest

from lora.dataset.caption_hints import OF_OUR_REPORT
from lora.dataset.caption_records import (
    NAME_KEYS,
    TEXT_KEYS,
    AmbiguousError,
    Record,
    Row,
    checked_row,
    is_text_key,
    naming_key,
    normalized,
    rows_of,
)
from lora.dataset.image_names import ImageNames
from lora.dataset.names import path_of, quoted, suffix_of
from lora.dataset.wording import named

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
# Used for nothing else: a file with such a name is refused if it cannot be read. metadata.json is not one of them:
# photo services put a file of that name, without captions, into every album.
NAMES = frozenset({f"captions{suffix}" for suffix in SUFFIXES} | {"metadata.jsonl", "metadata.csv", "metadata.tsv"})
OF_COCO = {"images", "annotations"}
DELIMITERS = ",;\t|"
QUOTED = re.compile('"[^"]*"')
JSON_LINES = re.compile(r"\s*\{.*\}[ \t]*\n\s*\{")  # the first line is an object, and another one follows
SEPARATOR_LINE = re.compile(r"\s*sep=.\n", re.IGNORECASE)  # tells Excel the delimiter
COLUMN = "column {}"
WORDS_OF_A_KEY = 2  # a caption that mentions captions has more


def is_table(name: str) -> bool:
    """Whether a file is a caption table, according to its name alone."""
    return path_of(name).name.lower() in NAMES


def read_table(name: str, text: str, images: ImageNames) -> list[Row]:
    """The rows of a table that have text, in the format of its suffix (CSV for others).

    Raises ValueError if it cannot be parsed, and AmbiguousError if it is not unique which column holds what.
    """
    readers: dict[str, Callable[[str, ImageNames], list[Row]]] = {
        **{".jsonl": _json_lines, ".ndjson": _json_lines, ".json": _json}
    }
    if not text.strip():
        return []
    try:
        return [row for row in readers.get(suffix_of(name), _csv)(text, images) if row.text.strip()]
    except (RecursionError, csv.Error) as error:
        raise ValueError(str(error)) from error


def parsed_json(text: str) -> object:
    """Parse JSON; raises ValueError, for a duplicate key too, of which the JSON parser would keep the last value."""
    try:
        return json.loads(text, object_pairs_hook=_unique_object)
    except RecursionError as error:
        raise ValueError(str(error)) from error


def _json_lines(text: str, images: ImageNames) -> list[Row]:
    if text.lstrip().startswith("[{"):
        return _json(text, images)
    records = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                records.append(Record.of(parsed_json(line), place=f"line {number}: "))
            except ValueError as error:
                raise ValueError(f"line {number}: {str(error).removeprefix(f'line {number}: ')}") from error
    return rows_of(records, images)


def _json(text: str, images: ImageNames) -> list[Row]:
    if JSON_LINES.match(text):
        return _json_lines(text, images)
    content = parsed_json(text)
    if isinstance(content, dict):
        return _json_object(content, images)
    if isinstance(content, list):
        return rows_of([Record.of(entry) for entry in content], images)
    raise ValueError('expected {"photo.jpg": "its caption"}')


def _json_object(content: dict[str, object], images: ImageNames) -> list[Row]:
    """An object of captions by name, of records by name as sd-scripts writes it, one record, or a list in an object."""
    if content.keys() >= set(OF_OUR_REPORT):
        return []
    if content.keys() >= OF_COCO:
        return rows_of(_coco_records(content), images)
    lists = [value for value in content.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
    if len(lists) == 1:
        return rows_of([Record.of(entry) for entry in lists[0]], images)
    keys = {normalized(key) for key in content}
    is_record = keys & set(NAME_KEYS) and keys & set(TEXT_KEYS)
    if is_record and not any(images.stem(key) for key in content):
        return rows_of([Record.of(content)], images)
    named_records = {name: value for name, value in content.items() if isinstance(value, dict)}
    rows = rows_of([Record.of(_with_key(name, value)) for name, value in named_records.items()], images)
    return [*rows, *(checked_row(name, value) for name, value in content.items() if name not in named_records)]


def _coco_records(content: dict[str, object]) -> list[Record]:
    """The captions among the annotations of COCO, each with the file name of the image that its number means."""
    pictures, annotations = (
        [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
        for entries in (content["images"], content["annotations"])
    )
    names = {str(picture.get("id")): picture.get("file_name") for picture in pictures}
    return [
        Record("", {"file_name": names.get(str(annotation.get("image_id"))), "text": annotation["caption"]})
        for annotation in annotations
        if "caption" in annotation
    ]


def _with_key(name: str, record: dict[str, object]) -> dict[str, object]:
    """The record, with the name that it has in the object; which of two names is that of the image, the values tell."""
    return {next(key for key in ("file_name", "key") if key not in record or key == "key"): name, **record}


def _unique_object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Build an object, and raise ValueError for a duplicate key."""
    entries: dict[str, object] = {}
    for name, value in pairs:
        if name in entries:
            raise ValueError(f"{quoted(name)} is there twice: expected one entry for each name")
        entries[name] = value
    return entries


def _csv(text: str, images: ImageNames) -> list[Row]:
    """Parse a table with a heading, or one of two columns. In many locales, spreadsheets use `;` as the delimiter, and
    captions often contain unquoted commas."""
    text = SEPARATOR_LINE.sub("", text, count=1) if SEPARATOR_LINE.match(text) else text
    delimiter = _delimiter(text, images)
    lines = [cells for cells in csv.reader(io.StringIO(f"{text.strip()}\n"), delimiter=delimiter) if any(cells)]
    _refuse_misread(text, lines)
    heading = [normalized(cell) for cell in lines[0]] if lines else []
    if not _is_heading(lines, images):
        return _rows_without_heading(lines, delimiter, images)
    if not any(map(is_text_key, heading)):
        raise ValueError(f"its columns are {named(heading)}: expected one of {', '.join(TEXT_KEYS)}")
    records = []
    for number, cells in enumerate(lines[1:], 2):
        if len(cells) > len(heading) and not is_text_key(heading[-1]):
            raise ValueError(f"row {number} has {len(cells)} columns: expected {len(heading)} as in the first row")
        # Excel omits empty cells at the end of a row.
        merged = _merge_last_cells(cells, delimiter, into=len(heading))
        records.append(Record("", dict(zip_longest(heading, merged, fillvalue=""))))
    return rows_of(records, images)


def _is_heading(lines: list[list[str]], images: ImageNames) -> bool:
    """Whether the first row has a known key in it, or a variant such as `cogvlm_caption`, and no image."""
    known = (*NAME_KEYS, *TEXT_KEYS)
    cells = lines[0] if lines else []
    is_known = any(normalized(cell) in known or _is_variant(cell) for cell in cells)
    return is_known and not any(map(images.has_whole, cells))


def _is_variant(cell: str) -> bool:
    return "caption" in cell.lower() and len(cell.split()) <= WORDS_OF_A_KEY


def _rows_without_heading(lines: list[list[str]], delimiter: str, images: ImageNames) -> list[Row]:
    """Rows of a name and a caption, or of a caption and a name. Raises ValueError if other columns are among them."""
    expected = "expected a first row with the names of the columns, such as file_name,text"
    columns = [COLUMN.format(number) for number in range(1, max(map(len, lines), default=0) + 1)]
    records = [Record("", dict(zip(columns, cells, strict=False))) for cells in lines]
    named_in = _naming_column(records, images)
    if columns[1:] == [named_in]:
        return [checked_row(name, text) for text, name in (_padded(cells) for cells in lines)]
    if lines and named_in != columns[0]:
        raise ValueError(f"{named_in} names the images, and which holds the captions is not known: {expected}")
    numbers = [column for column in columns[1:] if all(_is_number(record.values.get(column)) for record in records)]
    if numbers:
        raise ValueError(f"{numbers[0]} holds only numbers: {expected}")
    pairs = (_padded(_merge_last_cells(cells, delimiter, into=2)) for cells in lines)
    return [checked_row(name, text) for name, text in pairs]


def _naming_column(records: list[Record], images: ImageNames) -> str:
    """The column that names the images, or the first; raises AmbiguousError if several do so with suffixes."""
    try:
        return naming_key(records, images) or COLUMN.format(1)
    except AmbiguousError as error:
        if any(images.has_whole(str(cell)) for record in records for cell in record.values.values()):
            raise
        raise ValueError(str(error)) from error  # numbers of other things


def _delimiter(text: str, images: ImageNames) -> str:
    head = QUOTED.sub("", text.lstrip().partition("\n")[0])
    if images.stem(head.partition(":")[0]) is not None and ":" in head:
        return ":"
    return next((character for character in head if character in DELIMITERS), ",")


def _refuse_misread(text: str, lines: list[list[str]]) -> None:
    """Raise ValueError for text that the CSV reader accepts but misinterprets."""
    if lines and max(map(len, lines)) == 1:
        raise ValueError(f"its first row is {quoted(lines[0][0])}: expected two columns, file_name,text")
    if lines and lines[-1][-1].endswith("\n") and not text.rstrip().endswith('"'):
        raise ValueError(f"the row of {quoted(lines[-1][0])} opens a quotation mark: expected a closing one")


def _merge_last_cells(cells: list[str], delimiter: str, *, into: int) -> list[str]:
    return [*cells[: into - 1], delimiter.join(cells[into - 1 :])] if len(cells) > into else cells


def _padded(cells: list[str]) -> tuple[str, str]:
    return cells[0], cells[1] if len(cells) > 1 else ""


def _is_number(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"\s*[-+]?\d+([.,]\d+)?\s*", value) is not None
