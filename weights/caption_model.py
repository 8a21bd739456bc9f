"""Finds the captioner, which describes images without a caption, and checks its files. Loads no model."""

import os
from dataclasses import dataclass
from pathlib import Path

from weights.base_manifest import Manifest, check_digests, read_manifest
from weights.bases import WEIGHTS, LogLine, log_nothing
from weights.catalogue import TINY
from weights.component_files import json_object
from weights.layouts import CONFIG, check_captioner_folder

SETTING, DEVICE_SETTING = "FLUX_CAPTIONER", "FLUX_CAPTIONER_DEVICE"
OFF = "off"
DEVICES = ("auto", "cpu")
FOLDER = WEIGHTS / "captioner"
TINY_FOLDER = WEIGHTS / "tiny-captioner"  # the embedded one, which knows the world of the embedded base alone
# Both have classes of their own in transformers, so that no code of a repository runs
REPOSITORY, SMALL_REPOSITORY = "Qwen/Qwen3-VL-2B-Instruct", "florence-community/Florence-2-large"
REMEDY = "`script/download captioner`"


@dataclass(frozen=True, slots=True)
class CaptionerFolder:
    """A captioner on this machine."""

    path: Path
    name: str  # for logs and reports
    on_cpu: bool  # whether the deployment wants it on the CPU


def find_captioner(log_line: LogLine = log_nothing) -> CaptionerFolder | None:
    """Find the captioner: in the folder that FLUX_CAPTIONER names, by default weights/captioner; the embedded one for
    `tiny`; None if there is none or FLUX_CAPTIONER is `off`. Nothing is downloaded.

    Raises ValueError for settings that cannot be used and for damaged files, FileNotFoundError for missing files; with
    one sentence that says what to do.
    """
    setting, device = (os.environ.get(name, "").strip() for name in (SETTING, DEVICE_SETTING))
    if (device.lower() or DEVICES[0]) not in DEVICES:
        raise ValueError(f"{DEVICE_SETTING} is {device!r}: expected {' or '.join(DEVICES)}")
    if setting.lower() == OFF or not (setting or FOLDER.is_dir()):
        return None
    folder = _folder(setting)
    if not folder.is_dir():
        expected = f"expected {OFF}, {TINY}, or the path of a folder with a captioner; {REMEDY} puts one into {FOLDER}"
        raise ValueError(f"{SETTING} is {setting!r}, which is no folder: {expected}")
    try:
        check_captioner_folder(folder)
        check_digests(folder, published=[], log_line=log_line)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"the captioner: {error}; {_remedy(folder)}; autocaption=false does without") from error
    except ValueError as error:
        raise ValueError(
            f"the captioner: {error}; remove it, then {_remedy(folder)}; autocaption=false does without"
        ) from error
    return CaptionerFolder(folder, _name(folder), on_cpu=device.lower() == "cpu")


def refuse_another(folder: Path, repository: str) -> None:
    """Raise ValueError if a folder, into which a captioner is to be downloaded, holds another complete one."""
    manifest = read_manifest(folder)
    if manifest is None:
        try:
            check_captioner_folder(folder)
        except (ValueError, OSError):
            return  # nothing that works: a download may continue
    if manifest is None or _repository(manifest) != repository:
        found = _name(folder)
        raise ValueError(
            f"{folder} holds the captioner {found}: expected no other one than {repository}; remove it, or move it to"
            f" another folder, which {SETTING} can name"
        )


def _folder(setting: str) -> Path:
    if setting.lower() == TINY:
        return TINY_FOLDER
    return Path(setting) if setting else FOLDER


def _remedy(folder: Path) -> str:
    if folder.resolve() == TINY_FOLDER:
        return "run `script/build-tiny-captioner`"
    return f"{REMEDY} downloads it" if folder == FOLDER else "copy that file again from its source"


def _name(folder: Path) -> str:
    """Return the repository that the folder was downloaded from, the name of the folder, or that of the class."""
    manifest = read_manifest(folder)
    if manifest:
        return _repository(manifest)
    name = folder.resolve().name
    return str(json_object(folder / CONFIG)["architectures"][0]) if name == FOLDER.name else name


def _repository(manifest: Manifest) -> str:
    return manifest.source.removeprefix("hf://").partition("@")[0]
