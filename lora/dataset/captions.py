"""What a caption says once prefix, suffix and trigger word are in it. Text in, text out."""

import re
from dataclasses import dataclass

PLACEHOLDER = re.compile(r"\[trigger\]", re.IGNORECASE)
CLOSING = tuple(",.;:!?)")  # what follows a word without a space
TRAILING = " ,;:"


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
        prefix, line, suffix = self._replaced(self.prefix), self._replaced(caption), self._replaced(self.suffix)
        whole = _with_suffix(_with_prefix(line, prefix), suffix)
        if not self.trigger_word or _holds(whole, self.trigger_word):
            return whole
        return _with_suffix(_with_prefix(f"{self.trigger_word} {line}".strip(), prefix), suffix)

    def mentions_trigger(self, caption: str) -> bool:
        """Whether a caption says the trigger word itself, or where it goes."""
        return PLACEHOLDER.search(caption) is not None or _holds(caption, self.trigger_word)

    def _replaced(self, text: str) -> str:
        return one_line(PLACEHOLDER.sub(lambda _: self.trigger_word, text))


def one_line(text: str) -> str:
    """Text in words with a space between, without what no tokenizer should see: control characters, half characters."""
    whole = text.encode("utf-8", "replace").decode("utf-8").replace("\ufeff", "")
    return " ".join("".join(c if c.isprintable() or not c.isascii() else " " for c in whole).split())


def _with_prefix(line: str, prefix: str) -> str:
    start = re.escape(prefix.rstrip(TRAILING))
    if not prefix or re.match(rf"{start}(?!\w)", line, re.IGNORECASE):
        return line
    return f"{prefix} {line}".rstrip(TRAILING)


def _with_suffix(line: str, suffix: str) -> str:
    end = re.escape(suffix.lstrip(TRAILING))
    if not suffix or re.search(rf"(?<!\w){end}$", line, re.IGNORECASE):
        return line
    if not line:
        return suffix.lstrip(TRAILING)
    return f"{line}{suffix}" if suffix.startswith(CLOSING) else f"{line} {suffix}"


def _holds(line: str, word: str) -> bool:
    return bool(word) and re.search(rf"(?<!\w){re.escape(word)}(?!\w)", line, re.IGNORECASE) is not None
