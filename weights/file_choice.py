"""Chooses the LoRA among the files of a repository, a folder or a tar, by their names. Opens none."""

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from weights.printed import quoted

SUFFIX = ".safetensors"
PICKLES = (".pt", ".bin", ".ckpt", ".pth", ".pkl")
# The names under which diffusers, Replicate's trainers and PEFT save a LoRA
USUAL = ("pytorch_lora_weights.safetensors", "lora.safetensors", "adapter_model.safetensors")
ADAPTER_CONFIG = "adapter_config.json"  # of PEFT
CHECKPOINT_FOLDER = re.compile(r"(checkpoint|ckpt|step|epoch)s?([-_]?\d+)?", re.IGNORECASE)
# name_000000250 of ai-toolkit, name-000004 and name-step00000100 of sd-scripts, name_250_steps
CHECKPOINT = re.compile(r".*[-_](step|epoch|ckpt|checkpoint)?[-_]?\d{2,}([-_]?(steps?|epochs?))?", re.IGNORECASE)
SHOWN = 5  # number of names in an error message


def loras_in(names: Iterable[str]) -> list[str]:
    """The names of safetensors files, without the ._ files of macOS."""
    return [name for name in names if name.endswith(SUFFIX) and not PurePosixPath(name).name.startswith("._")]


def preferred_lora(names: Sequence[str]) -> str | None:
    """The final LoRA among several: the only one, the one with a usual name, or the one of which all others are
    checkpoints. None if that is not clear."""
    if len(names) == 1:
        return names[0]
    top = in_top_folder(names)
    for usual in USUAL:
        named = [name for name in top if PurePosixPath(name).name == usual]
        if len(named) == 1:
            return named[0]
    final = [name for name in names if not _is_checkpoint(PurePosixPath(name), of="")]
    is_clear = len(final) == 1 and all(
        _is_checkpoint(PurePosixPath(name), of=PurePosixPath(final[0]).stem) for name in names if name != final[0]
    )
    return final[0] if is_clear else None


def lora_in_repository(loras: Sequence[str]) -> str | None:
    """The final LoRA among those of a repository: by its name, or as the only one outside of folders."""
    return (preferred_lora(loras) or preferred_lora(in_top_folder(loras))) if loras else None


def in_top_folder(names: Sequence[str]) -> list[str]:
    """The names with the fewest folders."""
    depths = [len(PurePosixPath(name).parts) for name in names]
    return [name for name, depth in zip(names, depths, strict=True) if depth == min(depths)]


def config_beside(name: str) -> str:
    """The name that PEFT's settings for a file have."""
    return (PurePosixPath(name).parent / ADAPTER_CONFIG).as_posix()


def choice_note(names: Sequence[str], chosen: str) -> str:
    """What to log if one of several was chosen; empty if there is only one. It is the end of a sentence."""
    return f"has {len(names)} {SUFFIX} files: {quoted(chosen)} is used" if len(names) > 1 else ""


def pickles_note(names: Iterable[str]) -> str:
    """What an error about a missing safetensors file adds if there are pickles instead; else empty."""
    pickles = [name for name in names if name.lower().endswith(PICKLES)]
    return f"; pickles, such as {quoted(pickles[0])}, are not read, because they can run code" if pickles else ""


def quoted_list(names: Sequence[str]) -> str:
    """A few of the names, for an error."""
    shown = [quoted(name) for name in sorted(names)[:SHOWN]]
    more = [f"{len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return ", ".join(shown + more) or "none"


def _is_checkpoint(path: PurePosixPath, *, of: str) -> bool:
    """Whether a path is that of a checkpoint of a LoRA, by its folder, or by its name, which begins with that of the
    LoRA: `anime_64` is another LoRA than `portrait`, of rank 64 perhaps."""
    is_named = path.stem.startswith(of) and CHECKPOINT.fullmatch(path.stem) is not None
    return is_named or any(map(CHECKPOINT_FOLDER.fullmatch, path.parts[:-1]))
