"""Checkpoints whose contents are determined by their step, and helpers to compare and damage them."""

import json
import os
import time

import pytest
import torch

from lora.training.checkpoints.files import read_checkpoint
from lora.training.checkpoints.store import CheckpointStore
from tests.tiny import assert_one_sentence

IDENTITY = {"base": "tiny", "lora_rank": 16, "resolutions": (512, 768)}


def store_in(folder, *, reports=None):
    """A checkpoint store; without a list for reports, a damaged checkpoint fails the test."""
    return CheckpointStore(folder, IDENTITY, report_damage=pytest.fail if reports is None else reports.append)


def contents(step, *, count=1000):
    """Groups of tensors to save, determined by the step."""
    generator = torch.Generator().manual_seed(step)
    lora = {"a": torch.randn(count, generator=generator), "b": torch.randn(3, 5, generator=generator).bfloat16()}
    return {"lora": lora, "optimizer": {"0.state1": torch.full((count,), step % 256, dtype=torch.uint8)}}


def save(store, *steps):
    for step in steps:
        store.save(step, contents(step), {"step": step, "losses": [0.1, float(step)]})


def assert_saved_at(checkpoint, step):
    """Assert that the checkpoint is that of a step, bit for bit."""
    assert (checkpoint.step, checkpoint.values) == (step, {"step": step, "losses": [0.1, float(step)]})
    for name, group in contents(step).items():
        found = checkpoint.tensors(name)
        assert found.keys() == group.keys()
        for key, tensor in group.items():
            assert torch.equal(found[key], tensor)
            assert found[key].dtype == tensor.dtype


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def make_old(path, *, seconds=60):
    os.utime(path, (time.time() - seconds,) * 2)


def read_error(folder, *found):
    """The error message when the checkpoint in a folder is read."""
    with pytest.raises(ValueError) as error:
        read_checkpoint(folder)
    assert_one_sentence(error.value, f"checkpoint {folder.name!r}", *found)
    return str(error.value)


def rewrite_manifest(folder, **changes):
    """Change fields of a manifest."""
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
