"""What the files of a zip were called by who packed them: a zip tells in three ways how names are spelled, or not."""

import contextlib
import zipfile
from collections.abc import Iterator

from lora.dataset.names import printable
from lora.dataset.text_files import guess_encoding

UTF_8 = 0x800  # the flag of a name in UTF-8
UNICODE_PATH = 0x7075  # the extra field that spells it in UTF-8 (Info-ZIP)
PATH_START = 5  # where the name begins in that field, after a version and a checksum
SHOWN_AS = "cp437"  # what zipfile takes a name for that says nothing
# In these a letter is two bytes, of which the second may look like a backslash or a dot: read as anything else, a name
# gets folders that are not there. Between western alphabets there is no telling, and no harm.
OF_TWO_BYTES = {"cp932", "gb18030", "big5", "cp949"}


def decode_names(infos: list[zipfile.ZipInfo]) -> None:
    """Give each file the name that was meant; `orig_filename` stays as zipfile needs it."""
    unsaid = [info.orig_filename.encode(SHOWN_AS, "ignore") for info in infos if _is_unsaid(info)]
    encoding = guess_encoding(b"\n".join(unsaid)) if unsaid else SHOWN_AS
    for info in infos:
        info.filename = printable(_name(info, encoding if encoding in OF_TWO_BYTES else SHOWN_AS))


def _is_unsaid(info: zipfile.ZipInfo) -> bool:
    return not info.flag_bits & UTF_8 and _as_utf8(info) is None


def _name(info: zipfile.ZipInfo, encoding: str) -> str:
    if info.flag_bits & UTF_8:
        return info.filename
    name = _as_utf8(info)
    if name is None:
        with contextlib.suppress(UnicodeError):
            name = info.orig_filename.encode(SHOWN_AS).decode(encoding).partition("\0")[0]
    return info.filename if name is None else name


def _as_utf8(info: zipfile.ZipInfo) -> str | None:
    """As an extra field has it; or as it is, for macOS writes UTF-8 without saying so."""
    for kind, content in _extra_fields(info.extra):
        if kind == UNICODE_PATH and len(content) > PATH_START:
            with contextlib.suppress(UnicodeError):
                return content[PATH_START:].decode("utf-8")
    with contextlib.suppress(UnicodeError):
        return info.orig_filename.encode(SHOWN_AS).decode("utf-8").partition("\0")[0]
    return None


def _extra_fields(extra: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position + 4 <= len(extra):
        kind, size = (int.from_bytes(extra[start : start + 2], "little") for start in (position, position + 2))
        yield kind, extra[position + 4 : position + 4 + size]
        position += 4 + size
