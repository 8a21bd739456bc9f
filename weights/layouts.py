"""What is downloaded from a repository on Hugging Face: a base or a captioner, as the files that it consists of."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from weights.base_files import check_folder, is_layout_file
from weights.base_kind import INDEX, check_kind
from weights.component_files import ComponentFiles, check_component, json_object

CONFIG, WEIGHT_FILE = "config.json", "model.safetensors"
CAPTIONER_FILES = ComponentFiles("captioner", CONFIG, WEIGHT_FILE)
# In the layout of transformers: configurations, vocabularies, chat templates, weights and the licence
CAPTIONER_FILE = re.compile(
    r"[\w-]{1,80}\.(json|txt|model|jinja)|model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json|LICENSE[\w.-]{0,40}",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Layout:
    """The files of a kind of model, and their checks."""

    noun: str  # for messages
    index: str  # the file that every such repository has
    expected: str  # for messages about a repository without it
    is_file: Callable[[str], bool]  # whether a path in the repository belongs to the model
    check_config: Callable[[Path], None]  # of a folder whose weights may be missing yet
    check: Callable[[Path], None]  # of a complete folder; both raise ValueError or FileNotFoundError


def is_captioner_file(path: str) -> bool:
    """Whether a path in a repository is one of the files that transformers loads a model from."""
    return CAPTIONER_FILE.fullmatch(path) is not None


def check_captioner_config(folder: Path) -> None:
    """Check that the configuration of a captioner names a class. Raises ValueError with a sentence that starts with the
    path of the file."""
    found = json_object(folder / CONFIG).get("architectures")
    if not (isinstance(found, list) and found and isinstance(found[0], str)):
        raise ValueError(
            f"{folder / CONFIG} names no class: expected architectures with an image-to-text class of transformers"
        )


def check_captioner_folder(folder: Path) -> None:
    """Check the files of a captioner as those of a base are checked; see `weights.base_files.check_folder`."""
    check_component(folder, CAPTIONER_FILES)
    check_captioner_config(folder)


BASE = Layout("base", INDEX, "a base in diffusers layout", is_layout_file, check_kind, check_folder)
CAPTIONER = Layout(
    "captioner",
    CONFIG,
    "a model in the layout of transformers",
    is_captioner_file,
    check_captioner_config,
    check_captioner_folder,
)
