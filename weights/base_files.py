"""Is a folder in diffusers layout all of FLUX, and whole? Reads no tensor; knows no catalogue and no remedy."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weights.weight_file import check_weight_file, refuse_pointer

INDEX = "model_index.json"  # what a folder in diffusers layout always holds
UNFINISHED = ".incomplete"  # how downloads end that have not
MOST_JSON_BYTES = 64 * 2**20
PLAIN_NAME = re.compile(r"\w[\w.-]*\.safetensors")  # of a file in the same folder


@dataclass(frozen=True, slots=True)
class Part:
    """A part of FLUX, and the files that it cannot be loaded without."""

    name: str  # in the index, and of its folder
    config: str
    weights: str | None = None
    vocabularies: tuple[tuple[str, ...], ...] = ()  # sets of files, any of which will do


# In the order in which diffusers loads them, which is that of published indices.
PARTS = (
    Part("scheduler", "scheduler_config.json"),
    Part("text_encoder", "config.json", "model.safetensors"),
    Part("text_encoder_2", "config.json", "model.safetensors"),
    Part("tokenizer", "tokenizer_config.json", vocabularies=(("tokenizer.json",), ("vocab.json", "merges.txt"))),
    Part("tokenizer_2", "tokenizer_config.json", vocabularies=(("tokenizer.json",), ("spiece.model",))),
    Part("transformer", "config.json", "diffusion_pytorch_model.safetensors"),
    Part("vae", "config.json", "diffusion_pytorch_model.safetensors"),
)


def check_folder(folder: Path) -> None:
    """Raises FileNotFoundError for a file that is missing and ValueError for one that is damaged, each with a sentence
    that begins with its path. Takes milliseconds, however large the weights are: of these, headers and a few pages of
    4 KiB are read.
    """
    index = _json_object(folder / INDEX)
    for part in PARTS:
        named = index.get(part.name)
        if not (isinstance(named, list) and named and all(isinstance(word, str) for word in named)):
            raise ValueError(f"{folder / INDEX} names no {part.name}: expected all parts of FLUX.1")
        _check_part(folder / part.name, part)


def weight_files(folder: Path) -> list[Path]:
    """All files of weights of a folder in diffusers layout, in the order in which they are loaded.

    Raises FileNotFoundError and ValueError as `check_folder` does.
    """
    return [file for part in PARTS for file in _weight_files(folder / part.name, part)]


def _check_part(folder: Path, part: Part) -> None:
    if not (folder / part.config).is_file():
        raise FileNotFoundError(f"{folder / part.config} is missing: expected the configuration of this part")
    for file in sorted(each for each in folder.iterdir() if each.is_file()):
        if file.name.endswith(UNFINISHED):
            raise ValueError(f"{file} is the beginning of a download that did not end: expected the whole file")
        refuse_pointer(file)
        if file.suffix == ".json":
            _json_object(file)
    if part.vocabularies and not any(_all_there(folder, names) for names in part.vocabularies):
        wanted = " or ".join(" and ".join(names) for names in part.vocabularies)
        raise FileNotFoundError(f"{folder} has no vocabulary: expected {wanted}")
    for file in _weight_files(folder, part):
        check_weight_file(file)


def _all_there(folder: Path, names: tuple[str, ...]) -> bool:
    return all((folder / name).is_file() for name in names)


def _weight_files(folder: Path, part: Part) -> list[Path]:
    """The one, or the shards that an index names; both if both are there, as libraries differ in which they take."""
    if part.weights is None:
        return []
    whole, index = folder / part.weights, folder / f"{part.weights}.index.json"
    found = [whole] if whole.is_file() else []
    if index.is_file():
        found += _shards(index)
    if not found:
        raise FileNotFoundError(f"{whole} is missing: expected it, or {index.name} and the files that it names")
    return found


def _shards(index: Path) -> list[Path]:
    weight_map = _json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index} names no files: expected a weight_map")
    for name in weight_map.values():
        if not isinstance(name, str) or not PLAIN_NAME.fullmatch(name):
            raise ValueError(f"{index} names the file {name!r:.60}: expected a .safetensors in the same folder")
    shards = [index.parent / name for name in sorted(set(weight_map.values()))]
    missing = [shard for shard in shards if not shard.is_file()]
    if missing:
        count = f"found {len(shards) - len(missing)} of the {len(shards)} files that {index.name} names"
        raise FileNotFoundError(f"{missing[0]} is missing: {count}")
    return shards


def _json_object(file: Path) -> dict[str, Any]:
    size = file.stat().st_size
    if size > MOST_JSON_BYTES:
        raise ValueError(f"{file} has {size:,} bytes: expected a JSON object of at most {MOST_JSON_BYTES:,}")
    refuse_pointer(file)
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is damaged: found {size:,} bytes that are no JSON, expected a JSON object") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds a JSON {type(content).__name__}: expected an object")
    return content
