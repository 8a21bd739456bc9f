"""Turns the answer of a captioner into a caption: one line of whole sentences, without what is no description."""

import re
from dataclasses import dataclass

from lora.dataset.captions import one_line

MAX_WORDS = 100
MAX_CHARACTERS = 1000  # for languages without spaces between words: more than 100 words of most others
FEWEST_ECHOED = 4  # words of a sentence that the instruction has, too, from which it counts as repeated
PICTURE = (
    r"(?:image|picture|photo(?:graph)?|snapshot|shot|scene|painting|drawing|illustration|artwork|render(?:ing)?|"
    r"screenshot|sketch|portrait|composition|frame)"
)
KIND = r"(?:(?!of\b|that\b|which\b)[\w-]+,? ){0,4}?"  # "vibrant", "black and white", "close-up"
SHOWS = (
    r"(?:(?:clearly |also |mainly |primarily |prominently )?(?:shows?|depicts?|features?|displays?|presents?|captures?|"
    r"portrays?|illustrates?|showcases|represents?|contains?|includes?|is showing|is depicting|is of|"
    r"appears to (?:be(?: of)?|show|depict|feature)|seems to (?:be(?: of)?|show|depict|feature)))"
)
END = r"(?: |\W*$)"  # of an opening phrase after which nothing may follow
# What models begin with although it says nothing of the image. Each is removed as often as it stands at the start.
OPENINGS = tuple(
    re.compile(rf"^{pattern}", re.IGNORECASE)
    for pattern in (
        r"(?:sure|certainly|of course|okay|ok|absolutely)\b[ ,.!:;-]*(?=\S)",
        r"here(?:.s| is| are)\b[^.:]{0,80}:\s*",
        r"(?:the |an? |my |image |detailed |short |training )*(?:caption|description|answer|response|prompt)\s*:\s*",
        rf"(?:in|on) (?:the|this|your) {KIND}{PICTURE},? (?:(?:we|you|one|i) (?:can |could )?(?:also )?see |"
        r"(?:there|it) (?:is|are|shows?) )?",
        rf"(?:we|you|one|i) (?:can |could )?see (?:that )?(?:in (?:the|this) {KIND}{PICTURE},? )?",
        rf"(?:the|this|it|your) (?:{KIND}{PICTURE} )?{SHOWS}{END}(?:(?:to|for|us|you) )?(?:that )?",
        rf"(?:this|it|the {KIND}{PICTURE}) is (?=(?:an?|the) {KIND}{PICTURE}\b)",
        rf"(?:an?|the) (?:image|picture) (?:of|showing|depicting|that shows|which shows|featuring){END}",
    )
)
THOUGHT = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL | re.IGNORECASE)
UNOPENED_THOUGHT = re.compile(r"\A.*</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
MARKUP = re.compile(r"\*\*|__|`+|^\s*(?:#+|>|[-*•]|\d+[.)])\s+", re.MULTILINE)
SENTENCE = re.compile(r".+?(?:[.!?…][\"'”’)]*(?=\s|$)|[。！？]|$)\s*")  # noqa: RUF001 - full-width marks of Chinese
SENTENCE_END = re.compile(r"[.!?…。！？][\"'”’)]*$")  # noqa: RUF001 - full-width marks of Chinese
CLAUSE_END = ",;:，；："  # noqa: RUF001 - full-width marks of Chinese
QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»"}  # noqa: RUF001 - typographic quotes
# Words after which an answer that was cut does not make sense.
DANGLING = re.compile(r"[\s,;:-]+(?:an?|the|and|or|with|of|in|on|at|to|by|for|from|is|are|its|his|her|their)$", re.I)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a captioner wrote for one image."""

    text: str
    is_cut: bool  # whether it reached the largest number of tokens before its end
    asked: str  # the instruction; empty if the captioner takes none


def caption_of(answer: Answer) -> str:
    """The caption in an answer: one line of at most MAX_WORDS words.

    Thoughts, opening phrases, Markdown, quotes around it, the instruction and sentences that were there before are
    removed. An answer that was cut, or is too long, ends with its last whole sentence, else its last whole clause.
    Raises ValueError with the reason if nothing is left.
    """
    text = UNOPENED_THOUGHT.sub("", THOUGHT.sub("", answer.text))
    line = one_line(MARKUP.sub("", text))
    if not re.search(r"\w", line):
        raise ValueError("the captioner gave an empty answer")
    sentences = SENTENCE.findall(_after(line, answer.asked))
    spoken = [sentence.strip() for sentence in sentences if not _is_echo(sentence, answer.asked)]
    if not spoken:
        raise ValueError("the captioner repeated its instruction")
    whole = " ".join(dict.fromkeys(spoken))
    caption = _without_quotes(_without_openings(_without_quotes(whole)))
    limited = _limited(caption)
    if limited != caption or (answer.is_cut and not SENTENCE_END.search(limited)):
        limited = _without_fragment(limited)
    if not re.search(r"\w", limited):
        raise ValueError("the captioner gave an answer without a description")
    return limited


def _after(line: str, asked: str) -> str:
    """What follows the instruction, if the line has all of it."""
    words = r"\s+".join(map(re.escape, asked.split()))
    parts = re.split(words, line, flags=re.IGNORECASE) if words else [line]
    return re.sub(r"^(?:assistant|model)\b[: ]+", "", parts[-1].strip()) or line if len(parts) > 1 else line


def _is_echo(sentence: str, asked: str) -> bool:
    """Whether a sentence is a part of the instruction; the last sentence may be cut."""
    said = _plain(sentence)
    return not said or (len(said.split()) >= FEWEST_ECHOED and f" {said}" in f" {_plain(asked)}")


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


def _without_openings(line: str) -> str:
    previous = None
    while line != previous:
        previous = line
        for opening in OPENINGS:
            line = opening.sub("", line)
    return line


def _without_quotes(line: str) -> str:
    inner = line[1:-1]
    is_quoted = len(inner) > 0 and QUOTES.get(line[0]) == line[-1] and line[0] not in inner and line[-1] not in inner
    return inner.strip() if is_quoted else line


def _limited(line: str) -> str:
    words = " ".join(line.split(" ")[:MAX_WORDS])
    return (
        words if len(words) <= MAX_CHARACTERS else words[:MAX_CHARACTERS].rpartition(" ")[0] or words[:MAX_CHARACTERS]
    )


def _without_fragment(line: str) -> str:
    """The line up to its last whole sentence; without one, up to its last clause, or else its last word but one."""
    sentences = SENTENCE.findall(line)
    whole = [each for each in sentences if SENTENCE_END.search(each.rstrip())]
    if whole:
        return "".join(whole).rstrip()
    at = max(line.rfind(mark) for mark in CLAUSE_END)
    shorter = line[:at] if at > len(line) // 2 else line.rpartition(" ")[0] or line
    while (cut := DANGLING.sub("", shorter)) != shorter:
        shorter = cut
    return shorter.rstrip(f"{CLAUSE_END} ")
