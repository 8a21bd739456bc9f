"""Builds training prompts from captions, prefix, suffix and trigger word. Operates on text only."""

import re
import unicodedata
from dataclasses import dataclass

from lora.dataset.text_files import BYTE_ORDER_MARK

PLACEHOLDER = re.compile(r"(?<!\[)\[+trigger\]+", re.IGNORECASE)
CLOSING = tuple(",.;:!?)")  # punctuation that follows a word without a space
SEPARATORS = " ,;:"
# Letters of scripts that separate words with spaces: excludes Thai to Khmer, Japanese and Chinese.
LETTER = r"[^\W\u0e00-\u109f\u1780-\u17ff\u2e80-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
BORDER = rf"(?!(?<={LETTER}){LETTER})"  # any position that is not inside a word


@dataclass(frozen=True, slots=True)
class PromptRule:
    """How captions become training prompts. Each text is a single line, or empty."""

    trigger_word: str
    prefix: str
    suffix: str
    multiline_split: bool = False  # whether a caption of several lines is several captions

    def prompts(self, caption: str) -> tuple[str, ...]:
        """The different training prompts for a caption: one, or with `multiline_split` one for each of its lines that
        is not blank."""
        lines = [line for line in caption.splitlines() if one_line(line)] if self.multiline_split else []
        return tuple(dict.fromkeys(map(self.prompt, lines or [caption])))

    def prompt(self, caption: str) -> str:
        """The training prompt for a caption, as a single line.

        It begins with the prefix and ends with the suffix, each exactly once. `[trigger]` is replaced by the trigger
        word, or removed if there is none. If the trigger word then occurs as a whole word, in any case, the prompt is
        complete; otherwise the trigger word is inserted before the caption. The function is idempotent.
        """
        line = self._with_trigger(caption)
        prompt = self._with_affixes(line)
        if not self.trigger_word or _contains_word(prompt, self.trigger_word):
            return prompt
        return self._with_affixes(f"{self.trigger_word} {self._without_affixes(line)}".rstrip())

    def mentions_trigger(self, caption: str) -> bool:
        """Whether the caption, the prefix or the suffix contains the trigger word or `[trigger]`."""
        return _contains_word(self._with_affixes(self._with_trigger(caption)), self.trigger_word)

    def _with_trigger(self, text: str) -> str:
        line = PLACEHOLDER.sub(lambda _: self.trigger_word, one_line(text))
        return one_line(PLACEHOLDER.sub("trigger", line))  # "[tri[trigger]gger]" contains another placeholder

    def _with_affixes(self, line: str) -> str:
        return _with_suffix(_with_prefix(line, self._with_trigger(self.prefix)), self._with_trigger(self.suffix))

    def _without_affixes(self, line: str) -> str:
        """The line without the prefix and suffix that it already has."""
        start, end = _start(self._with_trigger(self.prefix)), _end(self._with_trigger(self.suffix))
        if _starts(line, start):
            line = line[len(start) :].lstrip(SEPARATORS)
        return line[: -len(end)].rstrip(SEPARATORS) if _ends(line, end) else line


def one_line(text: str) -> str:
    """Normalize text to one line: words separated by single spaces, in Unicode normal form NFC, without control
    characters and lone surrogates."""
    valid = text.encode("utf-8", "replace").decode("utf-8").replace(BYTE_ORDER_MARK, "")
    visible = "".join(" " if unicodedata.category(character) == "Cc" else character for character in valid)
    return " ".join(unicodedata.normalize("NFC", visible).split())


def _with_prefix(line: str, prefix: str) -> str:
    if not prefix or _starts(line, _start(prefix)):
        return line
    return f"{prefix} {line}" if line else _start(prefix)


def _with_suffix(line: str, suffix: str) -> str:
    if not suffix or _ends(line, _end(suffix)):
        return line
    if not line:
        return _end(suffix)
    return f"{line}{suffix}" if suffix.startswith(CLOSING) else f"{line} {suffix}"


def _start(prefix: str) -> str:
    """The prefix without trailing separators: a line with any separator after it has the prefix."""
    return prefix.rstrip(SEPARATORS) or prefix


def _end(suffix: str) -> str:
    return suffix.lstrip(SEPARATORS) or suffix


def _starts(line: str, start: str) -> bool:
    return bool(start) and re.match(rf"{re.escape(start)}{BORDER}", line, re.IGNORECASE) is not None


def _ends(line: str, end: str) -> bool:
    at = max(len(line) - len(end), 0)
    return bool(end) and re.compile(rf"{BORDER}{re.escape(end)}\Z", re.IGNORECASE).match(line, at) is not None


def _contains_word(line: str, word: str) -> bool:
    return bool(word) and re.search(rf"{BORDER}{re.escape(word)}{BORDER}", line, re.IGNORECASE) is not None
