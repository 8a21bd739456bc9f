"""Checks that a folder in diffusers layout contains all components of its kind of base, and no damaged file.

Reads no tensor. Knows no catalogue, and no way to repair a folder.
"""

import re
from pathlib import Path

from weights.base_kind import INDEX, KINDS, kind_of
from weights.component_files import ComponentFiles, check_component, component_weights, json_object

MANIFEST = "manifest.json"  # of a downloaded base: the sha256 of each file
# Beside the components: a base may bring neutral prompts of its own, and its licence
ROOT_FILE = re.compile(r"(model_index|neutral_prompts)\.json|LICENSE[\w.-]{0,40}", re.ASCII)
CONFIG_FILE = re.compile(r"\w[\w.-]{0,80}\.(json|txt|model|jinja)", re.ASCII)


def is_layout_file(path: str) -> bool:
    """Whether a path, relative to a base, is one of the files that a base of any kind in diffusers layout consists of.

    It is not for weights in other layouts or precisions, for images and for whatever else repositories hold.
    """
    folder, _, name = path.rpartition("/")
    if not folder:
        return ROOT_FILE.fullmatch(name) is not None
    return any(
        _is_file_of(component, name) for kind in KINDS for component in kind.components if component.name == folder
    )


def _is_file_of(component: ComponentFiles, name: str) -> bool:
    stem = re.escape((component.weights or "").removesuffix(".safetensors"))
    weights = component.weights is not None and re.fullmatch(rf"{stem}(-\d{{5}}-of-\d{{5}})?\.safetensors", name)
    index = component.weights is None or not name.endswith(".index.json") or name == f"{component.weights}.index.json"
    return bool(weights) or (index and CONFIG_FILE.fullmatch(name) is not None)


def check_folder(folder: Path) -> None:
    """Check all files of a folder.

    Raises FileNotFoundError for a missing file and ValueError for a damaged one, with a sentence that starts with the
    path of the file. Takes milliseconds for weights of any size: it reads their headers and a few pages of 4 KiB.
    """
    index, kind = json_object(folder / INDEX), kind_of(folder)
    for component in kind.components:
        entry = index.get(component.name)
        if not (isinstance(entry, list) and entry and all(isinstance(word, str) for word in entry)):
            raise ValueError(f"{folder / INDEX} has no {component.name}: expected all components of {kind.name}")
        check_component(folder / component.name, component)


def weight_files(folder: Path) -> list[Path]:
    """Return all weight files of a folder in diffusers layout, in the order in which they are loaded.

    Raises FileNotFoundError and ValueError like `check_folder`.
    """
    components = kind_of(folder).components
    return [file for component in components for file in component_weights(folder / component.name, component)]
