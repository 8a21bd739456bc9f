"""The names that reference images have in data sets for editing LoRAs. Knows no images.

A reference shows what its image was before the edit: `photo_reference.png` beside `photo.png`, `photo_start.png` beside
`photo_end.png` (hosted trainers of FLUX.1 Kontext and FLUX.2), or a file of the same name in a folder such as
`references/`, `control_1/` (ai-toolkit, musubi-tuner, Civitai) or `before/`.
"""

import re
from collections.abc import Iterator

from lora.dataset.file_kinds import IMAGE_NAME
from lora.dataset.partners import PlacedFile, names_beside, names_elsewhere

BEFORE = (
    *("reference", "references", "ref", "refs", "control", "controls", "condition", "conditioning", "cond"),
    *("start", "before", "source", "sources", "src", "input", "inputs", "original", "originals", "orig"),
)
AFTER = ("end", "after", "target", "targets", "tgt", "edited", "edit", "result", "results", "output", "outputs")
# A folder of edits may well be called edits_before.
AFTER_IN_FOLDERS = frozenset(AFTER) - {"edit"}
NO_REFERENCES = frozenset({"mask", "masks", "controlnet"})
WORDS_BEFORE, WORDS_AFTER = ("|".join(sorted(words, key=len, reverse=True)) for words in (BEFORE, AFTER))
# They start at the first of several separators only, so that the time is linear in a name of nothing else.
BEFORE_AT_END = re.compile(rf"(?<![-_. ])(?P<separator>[-_. ]+)(?:{WORDS_BEFORE})[-_. ]*\d{{0,4}}\Z", re.IGNORECASE)
BEFORE_AT_START = re.compile(rf"(?:{WORDS_BEFORE})\d{{0,4}}(?P<separator>[-_. ]+)(?=[^-_. ])", re.IGNORECASE)
AFTER_AT_END = re.compile(rf"(?<![-_. ])[-_. ]+(?:{WORDS_AFTER})\Z", re.IGNORECASE)
AFTER_AT_START = re.compile(rf"(?:{WORDS_AFTER})[-_. ]+(?=[^-_. ])", re.IGNORECASE)
BEFORE_ALONE = re.compile(rf"(?:{WORDS_BEFORE})(?P<number>\d{{0,4}})", re.IGNORECASE)  # a folder for each pair
NUMBER_AT_END = re.compile(r"(?<![-_. ])[-_. ]+\d{1,4}\Z")  # musubi-tuner: 1_0.png and 1_1.png in its control_directory


def is_reference_folder(name: str) -> bool:
    """Whether a folder may hold references, by its name in lower case, with one underscore for what separates words."""
    words = set(re.split(r"[_\d]+", name))
    return bool(words & set(BEFORE)) and not words & (AFTER_IN_FOLDERS | NO_REFERENCES)


def is_reference_name(stem: str) -> bool:
    """Whether the stem of a file says that it is a reference of another file."""
    return _before(stem) is not None


def base_of_result(stem: str) -> str | None:
    """What the stem of an image after the edit has in common with that of its reference: `photo` for `photo_end`; None
    if it does not say that it is one."""
    if (end := AFTER_AT_END.search(stem, 1)) is not None:
        return stem[: end.start()]
    start = AFTER_AT_START.match(stem)
    return stem[start.end() :] if start else None


def images_beside(file: PlacedFile) -> tuple[str, ...]:
    """The names that the image of a reference beside it may have, the most likely first; none if the file does not have
    the name of a reference."""
    if (alone := BEFORE_ALONE.fullmatch(file.stem)) is not None:
        return tuple(word + number for number in dict.fromkeys((alone["number"], "")) for word in AFTER)
    found = _before(file.stem)
    if found is None:
        return ()
    base, separator = found
    return *_results(base, separator), *names_beside(file, base)


def images_elsewhere(file: PlacedFile) -> list[str]:
    """The names that the image of a file in a folder of references may have, the most likely first; those of results of
    edits without what says so."""
    found = _before(file.stem)
    bases = [NUMBER_AT_END.sub("", file.stem), *([found[0]] if found else [])]
    return list(dict.fromkeys([*names_elsewhere(file), *bases]))


def in_order(name: str) -> tuple[tuple[int, str], ...]:
    """A key that sorts the references of an image, by their paths: numbers by value, and files without one first."""
    bare = IMAGE_NAME.sub("", name).casefold()
    parts = re.split(r"(\d{1,9})", bare)
    return tuple((int(part), "") if index % 2 else (-1, part) for index, part in enumerate(parts))


def _before(stem: str) -> tuple[str, str] | None:
    """The stem without what marks it as a reference, and what separates the two."""
    if (end := BEFORE_AT_END.search(stem, 1)) is not None:
        return stem[: end.start()], end["separator"]
    start = BEFORE_AT_START.match(stem)
    return (stem[start.end() :], start["separator"]) if start else None


def _results(base: str, separator: str) -> Iterator[str]:
    for word in AFTER:
        yield f"{base}{separator}{word}"
        yield f"{word}{separator}{base}"
