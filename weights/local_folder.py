"""Finds a LoRA in a folder of this machine, and PEFT's settings beside it. Reads no LoRA."""

from pathlib import Path

from weights.adapter_metadata import LONGEST_CONFIG
from weights.file_choice import (
    ADAPTER_CONFIG,
    SUFFIX,
    choice_note,
    loras_in,
    pickles_note,
    preferred_lora,
    quoted_list,
)
from weights.local_files import ReadableFolders


def names_folder(reference: str) -> bool:
    """Whether a reference is the absolute path of an existing folder with a LoRA, as PEFT's save_pretrained writes.

    Other folders count as missing, so that nobody learns which there are.
    """
    path = Path(reference)
    try:
        is_folder = path.is_absolute() and ".." not in path.parts and path.is_dir()
        return is_folder and any(each.name == ADAPTER_CONFIG or each.suffix == SUFFIX for each in path.iterdir())
    except (OSError, ValueError):  # no access, a name that is too long, or a zero byte
        return False


def lora_in_folder(path: Path) -> tuple[Path, str]:
    """Return the LoRA in a folder, and what to log if it was chosen among several; a path that is no folder itself.

    Raises ValueError unless it is clear which file is meant; the message completes a sentence.
    """
    if not names_folder(str(path)):
        return path, ""
    names = [each.name for each in path.iterdir() if each.is_file()]
    loras = loras_in(names)
    chosen = preferred_lora(loras) if loras else None
    if chosen is None:
        pickles = "" if loras else pickles_note(names)
        found = f"{len(loras)} {SUFFIX} files ({quoted_list(loras)}){pickles}"
        raise ValueError(f"is a folder with {found}: expected exactly one, or the path of one of them")
    return path / chosen, choice_note(loras, chosen)


def read_config_beside(path: Path, readable: ReadableFolders) -> str:
    """Return the text of PEFT's settings in the folder of a file; empty if there are none, or if a link leads to them
    that may not be read. Raises OSError."""
    config = path.with_name(ADAPTER_CONFIG)
    if not (readable.contain(config) and config.is_file()):
        return ""
    with config.open("rb") as file:
        return file.read(LONGEST_CONFIG + 1).decode(errors="replace")
