"""Decodes the file names of a zip: it may declare their encoding in three ways, or not at all."""

import contextlib
import zipfile
from collections.abc import Iterator

from lora.dataset.names import printable
from lora.dataset.text_files import guess_encoding

UTF_8 = 0x800  # flag: the name is UTF-8
UNICODE_PATH = 0x7075  # the Info-ZIP extra field with the name in UTF-8
PATH_START = 5  # offset of the name in that field, after a version and a checksum
DEFAULT_ENCODING = "cp437"  # used by zipfile if no encoding is declared
# Encodings with two bytes per letter, of which the second may be a backslash or a dot: decoded as anything else, a name
# contains folders that do not exist. Western alphabets cannot be distinguished, and a wrong one does no harm.
DOUBLE_BYTE = {"cp932", "gb18030", "big5", "cp949"}


def decode_names(infos: list[zipfile.ZipInfo]) -> None:
    """Set the decoded `filename` of each member; `orig_filename` is left unchanged, because zipfile reads it."""
    undeclared = [info.orig_filename.encode(DEFAULT_ENCODING, "ignore") for info in infos if _is_undeclared(info)]
    encoding = guess_encoding(b"\n".join(undeclared)) if undeclared else DEFAULT_ENCODING
    for info in infos:
        info.filename = printable(_name(info, encoding if encoding in DOUBLE_BYTE else DEFAULT_ENCODING))


def _is_undeclared(info: zipfile.ZipInfo) -> bool:
    return not info.flag_bits & UTF_8 and _as_utf8(info) is None


def _name(info: zipfile.ZipInfo, encoding: str) -> str:
    if info.flag_bits & UTF_8:
        return info.filename
    name = _as_utf8(info)
    if name is None:
        with contextlib.suppress(UnicodeError):
            name = info.orig_filename.encode(DEFAULT_ENCODING).decode(encoding).partition("\0")[0]
    return info.filename if name is None else name


def _as_utf8(info: zipfile.ZipInfo) -> str | None:
    """The name from the extra field, or its bytes decoded as UTF-8, which macOS writes without declaring it."""
    for kind, content in _extra_fields(info.extra):
        if kind == UNICODE_PATH and len(content) > PATH_START:
            with contextlib.suppress(UnicodeError):
                return content[PATH_START:].decode("utf-8")
    with contextlib.suppress(UnicodeError):
        return info.orig_filename.encode(DEFAULT_ENCODING).decode("utf-8").partition("\0")[0]
    return None


def _extra_fields(extra: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position + 4 <= len(extra):
        kind, size = (int.from_bytes(extra[start : start + 2], "little") for start in (position, position + 2))
        yield kind, extra[position + 4 : position + 4 + size]
        position += 4 + size
