"""Find the one LoRA in a tar without extracting anything."""

import io
import tarfile

from weights.lora_file import shown

MOST_MEMBERS = 10_000
SHOWN = 3  # how many names an error repeats


def is_tar(content: bytes) -> bool:
    """Whether bytes are an uncompressed tar, by the mark that every such file has."""
    return content[257:262] == b"ustar"


def lora_in_tar(content: bytes) -> bytes:
    """The content of the only regular .safetensors file in a tar; raises ValueError if there is none or several."""
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            found = [member for member in _members(tar) if _is_lora(member)]
            if len(found) != 1:
                names = ", ".join(shown(member.name) for member in found[:SHOWN]) or "none"
                raise ValueError(f"is a tar with {len(found)} .safetensors files ({names}): expected exactly one")
            file = tar.extractfile(found[0])
            return file.read() if file else b""
    except (tarfile.TarError, EOFError, OSError, RecursionError) as error:
        raise ValueError(f"is a damaged tar ({error})") from error


def _members(tar: tarfile.TarFile) -> list[tarfile.TarInfo]:
    members = []
    for member in tar:
        members.append(member)
        if len(members) > MOST_MEMBERS:
            raise ValueError(f"is a tar with more than {MOST_MEMBERS:,} files: expected a LoRA and its captions")
    return members


def _is_lora(member: tarfile.TarInfo) -> bool:
    """Links and devices are never followed, and what macOS adds beside a file is not the file."""
    name = member.name.rsplit("/", 1)[-1]
    return member.isreg() and not member.issparse() and name.endswith(".safetensors") and not name.startswith("._")
