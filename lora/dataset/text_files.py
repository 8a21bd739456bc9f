"""Decodes text files of any encoding. Knows nothing about captions."""

import codecs
import re
from dataclasses import dataclass

from charset_normalizer import from_bytes

BYTE_ORDER_MARK = "\ufeff"
BYTE_ORDER_MARKS = {  # longer marks first: the mark of UTF-32 begins with that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
WESTERN, JAPANESE = "cp1252", "cp932"
MOSTLY_ASCII = 0.7  # text in western languages has few accents; in other scripts few characters are ASCII
MOSTLY_KANA = 0.2  # Japanese text contains kana; bytes of other encodings do not decode to kana
KANA = re.compile("[\u3041-\u30fa]")
COMMON = ["cp932", "gb18030", "big5", "cp949", "cp1251", "cp1250", "cp1253", "cp1255", "cp1256"]


CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]")  # control characters except whitespace


@dataclass(frozen=True, slots=True)
class Text:
    """Text without byte order marks and with `\\n` line ends, and the encoding of its bytes."""

    content: str
    encoding: str


def decode_text(content: bytes) -> Text:
    """Decode by the byte order mark, else as UTF-8, else in a guessed encoding; raises ValueError if it is not text."""
    encoding = next((name for mark, name in BYTE_ORDER_MARKS.items() if content.startswith(mark)), None)
    encoding = encoding or _unmarked_utf16(content)
    text = _decoded(content, encoding or "utf-8")
    if text is None and encoding is None:
        encoding = guess_encoding(content)
        text = _decoded(content, encoding)
    if text is None or "\0" in text or not _is_readable(text):
        raise ValueError("it is not text")
    lines = text.replace(BYTE_ORDER_MARK, "").replace("\r\n", "\n").replace("\r", "\n")
    return Text(lines, encoding or "utf-8")


def _decoded(content: bytes, encoding: str) -> str | None:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        return None


def _unmarked_utf16(content: bytes) -> str | None:
    """Detect UTF-16 without a byte order mark: in western languages nearly every second byte is zero."""
    for first, encoding in enumerate(("utf-16-be", "utf-16-le")):
        if content[first::2].count(0) * 4 > len(content):
            return encoding
    return None


def guess_encoding(content: bytes) -> str:
    """Guess the encoding of bytes that are not UTF-8."""
    if len(content.decode("ascii", "ignore")) > MOSTLY_ASCII * len(content):
        return WESTERN
    japanese = _decoded(content, JAPANESE) or ""
    if len(KANA.findall(japanese)) > MOSTLY_KANA * len(japanese):
        return JAPANESE
    best = from_bytes(content, cp_isolation=COMMON).best()
    return best.encoding if best else WESTERN


def _is_readable(text: str) -> bool:
    """Whether the text has few control characters: bytes of an image may decode, but to many of them."""
    return len(CONTROLS.findall(text)) * 20 <= len(text)
