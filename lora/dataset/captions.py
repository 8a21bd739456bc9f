"""What a caption says once the trigger word is in it. Text in, text out."""

import re

PLACEHOLDER = re.compile(r"\[trigger\]", re.IGNORECASE)


def with_trigger(caption: str, trigger_word: str) -> str:
    """The caption as it will be trained, on one line.

    `[trigger]` is replaced; else a trigger word that is there as a whole word, in any case, is left alone; else it
    is put in front. Without a trigger word, `[trigger]` is removed.
    """
    line = " ".join(caption.split())
    if PLACEHOLDER.search(line):
        return " ".join(PLACEHOLDER.sub(lambda _: trigger_word, line).split())
    if not trigger_word or _holds_word(line, trigger_word):
        return line
    return f"{trigger_word} {line}".strip()


def _holds_word(line: str, word: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", line, re.IGNORECASE) is not None
