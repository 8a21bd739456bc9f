"""Finds names of images and captions in records, such as the rows of a table: by keys, and by the values under them."""

import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lora.dataset.image_names import ImageNames
from lora.dataset.names import quoted
from lora.dataset.wording import named

MAX_LETTERS = 64 * 1024  # per caption
# By preference. file_name is that of datasets' image folders, image that of diffusers' training scripts and LLaVA,
# image_path that of sd-scripts and musubi-tuner, filename, id and url those of SimpleTuner, key that of img2dataset.
NAME_KEYS = (
    *("file_name", "filename", "file", "image", "image_file", "image_name", "image_path", "image_filename"),
    *("image_file_name", "img", "img_path", "path", "file_path", "filepath", "full_path", "name"),
    *("key", "id", "image_id", "image_key", "url", "image_url"),
)
TEXT_KEYS = ("text", "caption", "prompt", "description")
TEXT_WORDS = ("caption", "prompt", "description", "text")  # inside of a key, as in SimpleTuner's cogvlm_caption
INSTRUCTION_KEYS = ("instruction", "edit_instruction")  # of data sets of edits; used only if there is no caption
TAG_KEYS = ("tags", "tag_string")  # of sd-scripts and gallery-dl; used only if there is no caption
ENOUGH = 0.5  # of the most images that the values under one key name; our choice


class AmbiguousError(ValueError):
    """Several keys could hold the same thing."""


@dataclass(frozen=True, slots=True)
class Row:
    """A caption and the name of its image file, as the table gives it."""

    file_name: str
    text: str


@dataclass(frozen=True, slots=True)
class Record:
    """Values by key, and where they stand in the file."""

    place: str  # such as "line 2: "; begins an error
    values: dict[str, object]

    @classmethod
    def of(cls, entry: object, *, place: str = "") -> "Record":
        """Create it from parsed JSON; raises ValueError if that is no object."""
        if not isinstance(entry, dict):
            example = '{"file_name": "photo.jpg", "text": "its caption"}'
            raise ValueError(f"{place}found {short_repr(entry)}: expected {example}")
        return cls(place, {normalized(key): value for key, value in entry.items()})


def normalized(key: str) -> str:
    """A key as it is compared: in lower case, with underscores."""
    return key.strip().lower().replace(" ", "_").replace("-", "_")


def is_text_key(key: str) -> bool:
    """Whether the value under a key may be a caption."""
    is_variant = any(word in key for word in TEXT_WORDS) and "negative" not in key
    return key in (*INSTRUCTION_KEYS, *TAG_KEYS) or (is_variant and "." not in key)  # text.jpg is the name of a file


def rows_of(records: Sequence[Record], images: ImageNames) -> list[Row]:
    """The caption and the image of each record.

    The image is named under the key whose values are names of images; if those of several keys are, and of different
    images, under the only known one. Raises AmbiguousError if that or the key of the captions is not unique, and
    ValueError with the place of a record without an image or a caption.
    """
    keys = set().union(*(record.values for record in records))
    naming = naming_key(records, images) if any(map(is_text_key, keys)) else None
    name_keys = [*([naming] if naming else []), *NAME_KEYS]
    try:
        text_keys = _text_keys(keys)
    except AmbiguousError as error:
        if naming:
            raise
        raise ValueError(str(error)) from error  # a table of other things is not meant to be read
    return [_row(_with_name(record, naming), name_keys, text_keys) for record in records]


def naming_key(records: Sequence[Record], images: ImageNames) -> str | None:
    """The key under which most records name an image, or None if no value does; raises AmbiguousError if it is not
    unique. Names with suffixes count more than those without: a number may name an image by chance."""
    keys = [key for key in dict.fromkeys(key for record in records for key in record.values) if not is_text_key(key)]
    whole = {key: sum(images.has_whole(name) for name in _names(records, key)) for key in keys}
    found = whole if any(whole.values()) else {key: len(_meant(records, key, images)) for key in keys}
    most = max(found.values(), default=0)
    candidates = [key for key in keys if most and found[key] >= ENOUGH * most]
    if len(candidates) > 1 and _differ([_meant(records, key, images) for key in candidates]):
        known = [key for key in candidates if key in NAME_KEYS]
        if len(known) != 1:
            problem = f"{named(known or candidates)} each name images, and different ones"
            raise AmbiguousError(f"{problem}: expected one such column; call it file_name")
        candidates = known
    return min(candidates, key=_preference, default=None)


def checked_row(name: object, text: object) -> Row:
    """Check the types and the length of a caption; null counts as an empty one. Raises ValueError."""
    text = "" if text is None else text
    if not isinstance(name, str) or not isinstance(text, str):
        raise ValueError(f"the caption of {short_repr(name)} is {short_repr(text)}: expected text")
    if len(text) > MAX_LETTERS:
        raise ValueError(
            f"the caption of {quoted(name)} has {len(text):,} characters: expected at most {MAX_LETTERS:,}"
        )
    return Row(name.strip(), text)


def caption_in(content: Mapping[str, object]) -> str | None:
    """The caption in a record of which the image is known, such as `photo.json`, or None if no key holds one.

    An empty description counts as none: photo services write one for every photo. Raises AmbiguousError if the key is
    not unique, and ValueError if the caption is no text.
    """
    values = {normalized(key): value for key, value in content.items()}
    keys = [key for key in _text_keys(values) if key in values]
    text = next((text for key in keys if not _is_blank(text := _text(values, key))), "")
    if not isinstance(text, str):
        raise ValueError(f"its caption is {short_repr(text)}: expected text")
    return None if not keys or (keys == [TEXT_KEYS[-1]] and not text) else text


def short_repr(value: object) -> str:
    """The beginning of a value, for an error."""
    return reprlib.repr(value)


def _text_keys(keys: Iterable[str]) -> list[str]:
    """The keys of captions by preference, tags last: known ones, else one that resembles a known one; raises
    AmbiguousError if several do."""
    present = set(keys)
    similar = sorted(key for key in present if is_text_key(key) and key not in (*INSTRUCTION_KEYS, *TAG_KEYS))
    known = [key for key in TEXT_KEYS if key in present]
    if len(similar) > 1 and not known:
        raise AmbiguousError(f"{named(similar)} may each hold the captions: expected one of them; call it text")
    return [*(known or similar or [key for key in INSTRUCTION_KEYS if key in present]), *TAG_KEYS]


def _row(record: Record, name_keys: Sequence[str], text_keys: Sequence[str]) -> Row:
    values = record.values
    names = [values[key] for key in name_keys if key in values]
    texts = [_text(values, key) for key in text_keys if key in values]
    if not names or not texts:
        found = named(list(values)) or "nothing"
        raise ValueError(f"{record.place}found {found}: expected file_name and text")
    try:
        return checked_row(names[0], next((text for text in texts if not _is_blank(text)), ""))
    except ValueError as error:
        raise ValueError(f"{record.place}{error}") from error


def _with_name(record: Record, naming: str | None) -> Record:
    """The record, with the number that names its image, such as SimpleTuner's id, as text."""
    if naming is None or not _is_number(record.values.get(naming)):
        return record
    return Record(record.place, {**record.values, naming: str(record.values[naming])})


def _names(records: Iterable[Record], key: str) -> list[str]:
    """The values under a key that may be names."""
    return [name for record in records if (name := _name(record, key)) is not None]


def _name(record: Record, key: str) -> str | None:
    value = record.values.get(key)
    return str(value) if isinstance(value, str) or _is_number(value) else None


def _meant(records: Iterable[Record], key: str, images: ImageNames) -> dict[int, str]:
    """The images that the values under a key mean, by the number of the record."""
    found = {}
    for number, record in enumerate(records):
        name = _name(record, key)
        stem = None if name is None else images.stem(name)
        if stem is not None:
            found[number] = stem
    return found


def _differ(meant: list[dict[int, str]]) -> bool:
    """Whether two keys of a record mean different images."""
    return any(len({each[number] for each in meant if number in each}) > 1 for number in set().union(*meant))


def _preference(key: str) -> int:
    return NAME_KEYS.index(key) if key in NAME_KEYS else len(NAME_KEYS)


def _text(values: Mapping[str, object], key: str) -> object:
    """The value under the key of a caption; a list of tags as one text, a list of captions as lines of one."""
    value = values[key]
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        return value
    return (", " if key in TAG_KEYS else "\n").join(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_blank(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())
