"""Finds files that seem to hold captions but are not read, and says what to do with them."""

import re
from pathlib import PurePosixPath

from lora.dataset.archive import Member, Skipped
from lora.dataset.image_names import ImageNames
from lora.dataset.names import path_of, suffix_of
from lora.dataset.text_files import decode_text

SEEM_TO_BE = "captions seem to be in"
TABLES = frozenset({".parquet", ".arrow", ".feather", ".xlsx", ".xls", ".ods", ".numbers", ".db", ".sqlite"})
DOCUMENTS = frozenset({".docx", ".doc", ".odt", ".pages", ".md", ".html", ".htm", ".yaml", ".yml", ".toml"})
MAX_BYTES = 64 * 1024  # of a text that may be a caption
MENTION = re.compile(r"\bcaptions?\b|_captions?\b|\bprompt\b", re.IGNORECASE)  # not caption_dropout_rate
NAMED_FOR_CAPTIONS = re.compile("caption|prompt|meta_cap", re.IGNORECASE)
SENTENCE = re.compile(r"[^\W\d]+ [^\W\d]+ [^\W\d]+")
BETWEEN_NAMES = re.compile(r"[\n\t\"',;|:]+")
LETTERS_SEARCHED = 4096  # at the beginning of a file: enough for the heading of a table or the keys of a record
OF_OUR_REPORT = ("caption_sources", "look_alikes")  # keys of report/dataset.json, which holds prompts, not captions


def seems_to_have_captions(name: str, text: str, images: ImageNames) -> bool:
    """Whether a file speaks of captions or prompts in its name or first lines, or of images in sentences."""
    if all(f'"{key}"' in text for key in OF_OUR_REPORT):
        return False
    head = text[:LETTERS_SEARCHED]
    if NAMED_FOR_CAPTIONS.search(path_of(name).name) or MENTION.search(head):
        return True
    return SENTENCE.search(head) is not None and any(map(images.has_whole, BETWEEN_NAMES.split(head)))


def hint_on(file: Member, images: ImageNames) -> Skipped | None:
    """What to do with a file that is neither an image nor read as captions, or None if it does not seem to hold any."""
    suffix, path = suffix_of(file.name), path_of(file.name)
    if table := hint_on_table(file.name):
        return table
    if suffix == ".json" or images.stem(path.stem) is None:
        return None
    caption = PurePosixPath(path.name).with_suffix(".txt").name
    if suffix in DOCUMENTS:
        return Skipped(file.name, f"save it as plain text, {caption}")
    return Skipped(file.name, f"call it {caption}") if _is_short_text(file) else None


def hint_on_table(name: str) -> Skipped | None:
    """What to do with a table of a kind that is not read, or None for a file of another name."""
    if suffix_of(name) not in TABLES:
        return None
    return Skipped(name, "save it as metadata.csv with the columns file_name and text")


def _is_short_text(file: Member) -> bool:
    """Whether a file is a text other than PDF, and XML or JSON, in which programs write settings."""
    if file.path.stat().st_size > MAX_BYTES:
        return False
    try:
        text = decode_text(file.path.read_bytes()).content.strip()
    except ValueError:
        return False
    return bool(text) and not text.startswith(("<", "{", "%PDF"))
