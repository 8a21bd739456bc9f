"""Converts Rich Text Format, which TextEdit and WordPad save by default, to plain text. Knows no captions."""

import re
from dataclasses import dataclass, field

START = "{\\rtf"
# The tokens of the RTF specification 1.9.1: a control word with its number, a byte in hexadecimal, a control symbol, a
# brace, or a character. Line ends between them mean nothing.
TOKEN = re.compile(
    r"\\([a-zA-Z]{1,32})(-?\d{1,10})?[ ]?|\\'([0-9a-fA-F]{2})|\\([^a-zA-Z])|([{}])|[\r\n]+|(.)", re.DOTALL
)
NOT_TEXT = frozenset(
    {"fonttbl", "colortbl", "stylesheet", "listtable", "info", "pict", "header", "footer", "themedata"}
)
BREAKS = {"par": "\n", "line": "\n", "sect": "\n", "page": "\n", "row": "\n", "cell": " ", "tab": " "}
SIGNS = {
    **{"emdash": "\u2014", "endash": "\u2013", "bullet": "\u2022"},
    **{"lquote": "\u2018", "rquote": "\u2019", "ldblquote": "\u201c", "rdblquote": "\u201d"},
}


def is_rich_text(text: str) -> bool:
    """Whether a text is RTF, by its first characters."""
    return text.lstrip().startswith(START)


def plain_text(rich: str) -> str:
    """The text of an RTF document, without formatting, pictures and metadata."""
    reader = _Reader()
    for word, number, byte, symbol, brace, character in TOKEN.findall(rich):
        if brace:
            reader.brace(brace)
        elif word:
            reader.word(word, int(number) if number else None)
        elif byte:
            reader.byte(int(byte, 16))
        elif symbol:
            reader.symbol(symbol)
        elif character:
            reader.add(character)
    return reader.text()


@dataclass(slots=True)
class _Reader:
    """The state while a document is read."""

    pieces: list[str] = field(default_factory=list)
    bytes_read: bytearray = field(default_factory=bytearray)  # a character may take two
    code_page: str = "cp1252"
    stack: list[tuple[bool, int]] = field(default_factory=list)
    is_hidden: bool = False
    fallbacks: int = 1  # how many characters after a Unicode character stand for it in old programs
    to_skip: int = 0

    def brace(self, brace: str) -> None:
        self.to_skip = 0
        if brace == "{":
            self.stack.append((self.is_hidden, self.fallbacks))
        elif self.stack:
            self.is_hidden, self.fallbacks = self.stack.pop()

    def word(self, word: str, number: int | None) -> None:
        self.to_skip = 0
        if word in NOT_TEXT:
            self.is_hidden = True
        elif word == "ansicpg" and number:
            self.code_page = f"cp{number}"
        elif word == "uc" and number is not None:
            self.fallbacks = number
        elif word == "u" and number is not None:
            self.add(chr(number % 0x10000))
            self.to_skip = self.fallbacks
        elif word in BREAKS or word in SIGNS:
            self.add(BREAKS.get(word) or SIGNS[word])

    def symbol(self, symbol: str) -> None:
        if symbol == "*":  # of a group that programs may skip if they do not know it
            self.is_hidden = True
        else:
            self.add({"~": " ", "_": "-", "-": ""}.get(symbol, "\n" if symbol in "\r\n" else symbol))

    def byte(self, value: int) -> None:
        if self.to_skip:
            self.to_skip -= 1
        elif not self.is_hidden:
            self.bytes_read.append(value)

    def add(self, text: str) -> None:
        if self.to_skip:
            self.to_skip -= 1
        elif not self.is_hidden:
            self._decode_bytes()
            self.pieces.append(text)

    def text(self) -> str:
        self._decode_bytes()
        joined = "".join(self.pieces).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return joined.replace("\0", "")

    def _decode_bytes(self) -> None:
        if not self.bytes_read:
            return
        try:
            self.pieces.append(self.bytes_read.decode(self.code_page, "replace"))
        except LookupError:
            self.pieces.append(self.bytes_read.decode("cp1252", "replace"))
        self.bytes_read.clear()
