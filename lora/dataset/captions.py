"""What a caption says once prefix, suffix and trigger word are in it. Text in, text out."""

import re
import unicodedata
from dataclasses import dataclass

from lora.dataset.text_files import BYTE_ORDER_MARK

PLACEHOLDER = re.compile(r"(?<!\[)\[+trigger\]+", re.IGNORECASE)
CLOSING = tuple(",.;:!?)")  # what follows a word without a space
SEPARATORS = " ,;:"
# Letters of scripts that put spaces between words: not Thai to Khmer, nor Japanese and Chinese.
LETTER = r"[^\W\u0e00-\u109f\u1780-\u17ff\u2e80-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
BORDER = rf"(?!(?<={LETTER}){LETTER})"  # anywhere but inside a word


@dataclass(frozen=True, slots=True)
class PromptRule:
    """How captions become training prompts. Each text is one line; empty where a person gave none."""

    trigger_word: str
    prefix: str
    suffix: str

    def prompt(self, caption: str) -> str:
        """The caption as it will be trained, on one line.

        It begins with the prefix and ends with the suffix, once. `[trigger]` is replaced by the trigger word, or
        removed where there is none; else a trigger word that is there as a whole word, in any case, is left alone;
        else it is put in front of the caption. Applied to its own result, the rule changes nothing.
        """
        line = self._replaced(caption)
        whole = self._framed(line)
        if not self.trigger_word or _holds(whole, self.trigger_word):
            return whole
        return self._framed(f"{self.trigger_word} {self._bare(line)}".rstrip())

    def mentions_trigger(self, caption: str) -> bool:
        """Whether a caption, its prefix or its suffix says the trigger word itself, or where it goes."""
        return _holds(self._framed(self._replaced(caption)), self.trigger_word)

    def _replaced(self, text: str) -> str:
        line = PLACEHOLDER.sub(lambda _: self.trigger_word, one_line(text))
        return one_line(PLACEHOLDER.sub("trigger", line))  # in "[tri[trigger]gger]" is another one

    def _framed(self, line: str) -> str:
        return _with_suffix(_with_prefix(line, self._replaced(self.prefix)), self._replaced(self.suffix))

    def _bare(self, line: str) -> str:
        """A line without the prefix and suffix that it has already."""
        start, end = _start(self._replaced(self.prefix)), _end(self._replaced(self.suffix))
        if _starts(line, start):
            line = line[len(start) :].lstrip(SEPARATORS)
        return line[: -len(end)].rstrip(SEPARATORS) if _ends(line, end) else line


def one_line(text: str) -> str:
    """Text in words with a space between, in one spelling of accents, without what no tokenizer should see: control
    characters, half characters."""
    whole = text.encode("utf-8", "replace").decode("utf-8").replace(BYTE_ORDER_MARK, "")
    visible = "".join(" " if unicodedata.category(character) == "Cc" else character for character in whole)
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
    """What a line with this prefix starts with, whatever separates the two."""
    return prefix.rstrip(SEPARATORS) or prefix


def _end(suffix: str) -> str:
    return suffix.lstrip(SEPARATORS) or suffix


def _starts(line: str, start: str) -> bool:
    return bool(start) and re.match(rf"{re.escape(start)}{BORDER}", line, re.IGNORECASE) is not None


def _ends(line: str, end: str) -> bool:
    at = max(len(line) - len(end), 0)
    return bool(end) and re.compile(rf"{BORDER}{re.escape(end)}\Z", re.IGNORECASE).match(line, at) is not None


def _holds(line: str, word: str) -> bool:
    return bool(word) and re.search(rf"{BORDER}{re.escape(word)}{BORDER}", line, re.IGNORECASE) is not None
