"""The files that a component of a base, or another model, is loaded from: none may be missing or damaged.

Reads no tensor. Knows no base.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weights.chat_template import check_chat_template
from weights.weight_file import check_weight_file, refuse_pointer

UNFINISHED = ".incomplete"  # suffix of an unfinished download
MAX_JSON_BYTES = 64 * 2**20
FILE_NAME = re.compile(r"\w[\w.-]*\.safetensors")  # a file in the same folder


@dataclass(frozen=True, slots=True)
class ComponentFiles:
    """A component of a base and the files that are required to load it."""

    name: str  # in model_index.json, and of the folder
    config: str
    weights: str | None = None
    vocabularies: tuple[tuple[str, ...], ...] = ()  # alternative sets of files
    has_chat_template: bool = False  # a tokenizer whose prompts are messages of a chat


def check_component(folder: Path, component: ComponentFiles) -> None:
    """Check the files of one component in its folder.

    Raises FileNotFoundError for a missing file and ValueError for a damaged one, with a sentence that starts with the
    path of the file.
    """
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
    if component.has_chat_template:
        config = folder / component.config
        check_chat_template(folder, config, json_object(config))
    for file in component_weights(folder, component):
        check_weight_file(file)


def _all_exist(folder: Path, names: tuple[str, ...]) -> bool:
    return all((folder / name).is_file() for name in names)


def component_weights(folder: Path, component: ComponentFiles) -> list[Path]:
    """Return the weight files of one component in its folder: the single file, or the shards of an index.

    Both if both exist, as libraries differ in which they load. Raises FileNotFoundError and ValueError like
    `check_component`.
    """
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
