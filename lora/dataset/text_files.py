"""The bytes of a text file become text, whatever program wrote it. Knows no caption."""

import codecs
from dataclasses import dataclass

from charset_normalizer import from_bytes

BYTE_ORDER_MARKS = {  # the longer ones first: UTF-32's begins with UTF-16's
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
WESTERN = "cp1252"
MOSTLY_ASCII = 0.7  # in western languages accents are few; elsewhere hardly a letter is ASCII
COMMON = ["cp932", "gb18030", "big5", "cp949", "cp1251", "cp1250", "cp1253", "cp1255", "cp1256"]


@dataclass(frozen=True, slots=True)
class Text:
    """Text, and how its bytes were taken."""

    content: str
    encoding: str


def decode_text(content: bytes) -> Text:
    """By its byte order mark, else as UTF-8, else by what the bytes look like; raises ValueError if it is no text."""
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if content.startswith(mark):
            return _decoded(content, encoding)
    try:
        text = Text(content.decode("utf-8-sig"), "utf-8")
    except UnicodeDecodeError:
        text = _decoded(content, _guess(content))
    if "\0" in text.content:
        text = _decoded(content, "utf-16-le" if content[1::2].count(0) > content[::2].count(0) else "utf-16-be")
    return text


def _decoded(content: bytes, encoding: str) -> Text:
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError("it is no text") from error
    if "\0" in text or not _is_readable(text):
        raise ValueError("it is no text")
    return Text(text, encoding)


def _guess(content: bytes) -> str:
    if len(content.decode("ascii", "ignore")) > MOSTLY_ASCII * len(content):
        return WESTERN
    best = from_bytes(content, cp_isolation=COMMON).best()
    return best.encoding if best else WESTERN


def _is_readable(text: str) -> bool:
    """Bytes of a picture decode as something, too, but with control characters all over."""
    return sum(not c.isprintable() and not c.isspace() for c in text) * 20 <= len(text)
