"""Helpers for tests with the embedded FLUX.2 [klein]."""

import json
import shutil
from pathlib import Path

import torch
from diffusers import Flux2KleinPipeline

from tests.tiny import replace
from weights.bases import WEIGHTS

TINY_FLUX2 = WEIGHTS / "tiny-flux2"


def tiny_klein() -> Flux2KleinPipeline:
    """weights/tiny-flux2, in fp32 on the CPU of any machine."""
    pipeline = Flux2KleinPipeline.from_pretrained(TINY_FLUX2, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def linked_klein(folder: Path) -> Path:
    """weights/tiny-flux2 as a folder of links; a test may `replace` its files."""
    shutil.copytree(TINY_FLUX2, folder, copy_function=lambda source, link: Path(link).symlink_to(source))
    return folder


def changed_klein(folder: Path, file: str, **changes: object) -> Path:
    """weights/tiny-flux2 with changes to one of its JSON files."""
    config = linked_klein(folder) / file
    replace(config, json.dumps(json.loads(config.read_text()) | changes).encode())
    return folder
