"""Warnings about captions and trigger words that are likely to train badly, each with what to do about it."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from lora.dataset.archive import Skipped
from lora.dataset.caption_hints import SEEM_TO_BE
from lora.dataset.captions import PromptRule, one_line
from lora.dataset.names import quoted, suffix_of
from lora.dataset.reading import Dataset
from lora.dataset.wording import counted, named

WORD = re.compile(r"[\w-]+")
FEWEST_CAPTIONS, SHORTEST_TRIGGER = 2, 3  # captions; letters; our choice
# What may stand before a trigger word, or after it at the end, as in "a photo of ohwx" and "in ohwx style".
AROUND = frozenset(
    WORD.findall(
        """
        a an the this is of in by close up close-up closeup shot photo photograph picture image portrait selfie
        painting drawing illustration sketch render style
        """
    )
)
# Other words that all captions of a data set may begin or end with although they are no trigger words; our choice.
USUAL = frozenset(
    WORD.findall(
        """
        1boy 1girl and anime at background black blonde blue boy brown cartoon cat character child color colorful
        couple cute dark day digital dog elderly female figure film for from full girl gray green grey group happy
        her high his indoors landscape light lighting male man medium middle-aged minimalist moody nature night old
        on one outdoors people person pink quality realistic red scene side smiling solo standing subject sunset that
        there three two vibrant view vintage watercolor white wide with woman women yellow young
        """
    )
)


@dataclass(frozen=True, slots=True)
class _SharedWord:
    """A word that all captions share where a trigger word stands."""

    word: str  # as the first caption spells it
    begins: bool  # whether all captions begin with it


def missing_captions(dataset: Dataset, rule: PromptRule) -> Iterator[str]:
    """Yield what is to be said first: captions that are there and not read, prompts without a word, and a trigger word
    in all captions that is not the one given."""
    texts = _texts(dataset)
    empty = dataset.empty_captions if len(texts) < len(dataset.images) else ()
    if not texts and (dataset.suspected or empty or dataset.pairing.unused):
        yield "no image has a caption, although files for captions are there:"
        yield from _about_unused(dataset)
    yield from _about_unread_files(dataset.suspected)
    if empty:
        yield f"{counted(len(empty), 'caption file')} without a word: {named(list(empty))}"
    blank = [image.name for image in dataset.images if not image.prompt]
    if blank:
        problem = "neither a caption nor a trigger word, so that no prompt will call what they teach"
        yield f"{counted(len(blank), 'image')} with {problem}: give captions or trigger_word: {named(blank)}"
    shared = _shared_word(texts, rule)
    if shared:
        yield _about_shared_word(shared, rule.trigger_word)


def warnings_about_captions(dataset: Dataset, rule: PromptRule) -> Iterator[str]:
    """Yield the warnings about single captions and the files that they are in."""
    captions = {image.name: image.caption.text for image in dataset.images if image.caption}
    uncaptioned = [image.name for image in dataset.images if not image.caption]
    if uncaptioned and captions:
        yield f"{counted(len(uncaptioned), 'image')} without a caption: {named(uncaptioned)}"
    if len(captions) > 1 and len(set(captions.values())) == 1 and not dataset.has_references:
        yield "all captions are the same: describe what differs between the images, not what the LoRA should learn"
    without_trigger = [name for name, text in captions.items() if not rule.mentions_trigger(text)]
    if rule.trigger_word and without_trigger and not _shared_word(_texts(dataset), rule):
        which = "all captions" if len(without_trigger) == len(captions) else counted(len(without_trigger), "caption")
        yield f"{which} without {rule.trigger_word!r}: it is put in front; 'a photo of [trigger] ...' works better"
    shared = Counter(id(image.caption) for image in dataset.images if image.caption)
    sharing = [image.name for image in dataset.images if shared[id(image.caption)] > 1]
    if sharing:
        yield f"one caption is used for several images of the same name: {named(sharing)}"
    if captions:
        yield from _about_unused(dataset)
    yield from _about_caption_files(dataset)


def _about_unread_files(suspected: tuple[Skipped, ...]) -> Iterator[str]:
    """One warning for all files of a kind, with the remedy for the first of them."""
    by_kind: dict[str, list[Skipped]] = defaultdict(list)
    for file in suspected:
        by_kind[suffix_of(file.name)].append(file)
    for files in by_kind.values():
        first = "" if len(files) == 1 else f"{quoted(files[0].name)}: "
        yield f"{SEEM_TO_BE} {named([file.name for file in files])}, not read: {first}{files[0].reason}"


def _about_shared_word(shared: _SharedWord, trigger_word: str) -> str:
    prompt = f"{trigger_word} {'' if shared.begins else '... '}{shared.word} ..."
    verb = "begin with" if shared.begins else "have"
    found = f"all captions {verb} {shared.word!r}, and trigger_word is {trigger_word!r}, which is put in front of it"
    return (
        f"{found}: prompts are {prompt!r}, and the LoRA learns both words; if {shared.word!r} is your trigger word,"
        f" give trigger_word={shared.word}"
    )


def _shared_word(texts: list[str], rule: PromptRule) -> _SharedWord | None:
    """The word that all captions begin or end with, if it is no usual one and none of them has the trigger word."""
    if len(texts) < FEWEST_CAPTIONS or not rule.trigger_word or any(map(rule.mentions_trigger, texts)):
        return None
    spoken = [WORD.findall(text) for text in texts]
    for words in (spoken, [each[::-1] for each in spoken]):
        first = [next((word for word in each if word.casefold() not in AROUND), "") for each in words]
        is_usual = len(first[0]) < SHORTEST_TRIGGER or first[0].casefold() in USUAL
        if not is_usual and len({word.casefold() for word in first}) == 1:
            return _SharedWord(first[0], all(each[0] == first[0] for each in spoken))
    return None


def _texts(dataset: Dataset) -> list[str]:
    return [one_line(image.caption.text) for image in dataset.images if image.caption]


def _about_unused(dataset: Dataset) -> Iterator[str]:
    unused = dataset.pairing.unused
    if unused:
        targets = named([f"{caption.target} in {caption.source}" for caption in unused])
        yield f"{counted(len(unused), 'caption')} without an image of that name: {targets}"


def _about_caption_files(dataset: Dataset) -> Iterator[str]:
    conflicting = dataset.pairing.conflicting
    if conflicting:
        sources = named(sorted({caption.source for caption in conflicting}))
        yield f"some images have several different captions, of which one is used; the others are in {sources}"
    if dataset.guessed_encodings:
        encodings = named([f"{file.name} as {file.encoding}" for file in dataset.guessed_encodings])
        yield f"not in UTF-8, so the encoding was guessed: {encodings}"
