"""Checks that a folder in diffusers layout contains all components of FLUX and that none of its files is damaged.

Reads no tensor. Knows no catalogue, and no way to repair a folder.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weights.weight_file import check_weight_file, refuse_pointer

INDEX = "model_index.json"  # contained in every folder in diffusers layout
MANIFEST = "manifest.json"  # of a downloaded base: the sha256 of each file
UNFINISHED = ".incomplete"  # suffix of an unfinished download
MAX_JSON_BYTES = 64 * 2**20
FILE_NAME = re.compile(r"\w[\w.-]*\.safetensors")  # a file in the same folder
# Beside the components: a base may bring neutral prompts of its own, and its licence
ROOT_FILE = re.compile(r"(model_index|neutral_prompts)\.json|LICENSE[\w.-]{0,40}", re.ASCII)
CONFIG_FILE = re.compile(r"\w[\w.-]{0,80}\.(json|txt|model|jinja)", re.ASCII)


@dataclass(frozen=True, slots=True)
class ComponentFiles:
    """A component of FLUX and the files that are required to load it."""

    name: str  # in model_index.json, and of the folder
    config: str
    weights: str | None = None
    vocabularies: tuple[tuple[str, ...], ...] = ()  # alternative sets of files


# In the order in which diffusers loads them, which is the order of published model_index.json files
COMPONENTS = (
    ComponentFiles("scheduler", "scheduler_config.json"),
    ComponentFiles("text_encoder", "config.json", "model.safetensors"),
    ComponentFiles("text_encoder_2", "config.json", "model.safetensors"),
    ComponentFiles(
        "tokenizer", "tokenizer_config.json", vocabularies=(("tokenizer.json",), ("vocab.json", "merges.txt"))
    ),
    ComponentFiles("tokenizer_2", "tokenizer_config.json", vocabularies=(("tokenizer.json",), ("spiece.model",))),
    ComponentFiles("transformer", "config.json", "diffusion_pytorch_model.safetensors"),
    ComponentFiles("vae", "config.json", "diffusion_pytorch_model.safetensors"),
)


def is_layout_file(path: str) -> bool:
    """Whether a path, relative to a base, is one of the files that a base in diffusers layout consists of.

    It is not for weights in other layouts or precisions, for images and for whatever else repositories hold.
    """
    folder, _, name = path.rpartition("/")
    if not folder:
        return ROOT_FILE.fullmatch(name) is not None
    component = next((each for each in COMPONENTS if each.name == folder), None)
    if component is None:
        return False
    stem = re.escape((component.weights or "").removesuffix(".safetensors"))
    weights = component.weights is not None and re.fullmatch(rf"{stem}(-\d{{5}}-of-\d{{5}})?\.safetensors", name)
    index = component.weights is None or not name.endswith(".index.json") or name == f"{component.weights}.index.json"
    return bool(weights) or (index and CONFIG_FILE.fullmatch(name) is not None)


def check_folder(folder: Path) -> None:
    """Check all files of a folder.

    Raises FileNotFoundError for a missing file and ValueError for a damaged one, with a sentence that starts with the
    path of the file. Takes milliseconds for weights of any size: it reads their headers and a few pages of 4 KiB.
    """
    index = json_object(folder / INDEX)
    for component in COMPONENTS:
        entry = index.get(component.name)
        if not (isinstance(entry, list) and entry and all(isinstance(word, str) for word in entry)):
            raise ValueError(f"{folder / INDEX} has no {component.name}: expected all components of FLUX.1")
        check_component(folder / component.name, component)


def weight_files(folder: Path) -> list[Path]:
    """Return all weight files of a folder in diffusers layout, in the order in which they are loaded.

    Raises FileNotFoundError and ValueError like `check_folder`.
    """
    return [file for component in COMPONENTS for file in _weight_files(folder / component.name, component)]


def check_component(folder: Path, component: ComponentFiles) -> None:
    """Check the files of one component in its folder. Raises FileNotFoundError and ValueError like `check_folder`."""
    if not (folder / component.config).is_file():
        raise FileNotFoundError(f"{folder / component.config} is missing: expected the configuration of this component")
    for file in sorted(each for each in folder.iterdir() if each.is_file()):
        if file.name.endswith(UNFINISHED):
            raise ValueError(f"{file} is an incomplete download: expected the whole file")
        refuse_pointer(file)
        if file.suffix == ".json":
            json_object(file)
    if component.vocabularies and not any(_all_exist(folder, names) for names in component.vocabularies):
        expected = " or ".join(" and ".join(names) for names in component.vocabularies)
        raise FileNotFoundError(f"{folder} has no vocabulary: expected {expected}")
    for file in _weight_files(folder, component):
        check_weight_file(file)


def _all_exist(folder: Path, names: tuple[str, ...]) -> bool:
    return all((folder / name).is_file() for name in names)


def _weight_files(folder: Path, component: ComponentFiles) -> list[Path]:
    """Return the single file, or the shards of an index; both if both exist, as libraries differ in which they load."""
    if component.weights is None:
        return []
    single_file, index = folder / component.weights, folder / f"{component.weights}.index.json"
    found = [single_file] if single_file.is_file() else []
    if index.is_file():
        found += _shards(index)
    if not found:
        raise FileNotFoundError(f"{single_file} is missing: expected it, or {index.name} and the files that it names")
    return found


def _shards(index: Path) -> list[Path]:
    weight_map = json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index} names no files: expected a weight_map")
    for name in weight_map.values():
        if not isinstance(name, str) or not FILE_NAME.fullmatch(name):
            raise ValueError(f"{index} names the file {name!r:.60}: expected a .safetensors in the same folder")
    shards = [index.parent / name for name in sorted(set(weight_map.values()))]
    missing = [shard for shard in shards if not shard.is_file()]
    if missing:
        count = f"found {len(shards) - len(missing)} of the {len(shards)} files that {index.name} names"
        raise FileNotFoundError(f"{missing[0]} is missing: {count}")
    return shards


def json_object(file: Path) -> dict[str, Any]:
    """Read a JSON file; raises ValueError, with a sentence that starts with the path, if it holds no object."""
    size = file.stat().st_size
    if size > MAX_JSON_BYTES:
        raise ValueError(f"{file} has {size:,} bytes: expected a JSON object of at most {MAX_JSON_BYTES:,}")
    refuse_pointer(file)
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is damaged: found {size:,} bytes that are no JSON, expected a JSON object") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds a JSON {type(content).__name__}: expected an object")
    return content
