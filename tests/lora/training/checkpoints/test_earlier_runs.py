"""A training that starts at step 0 is told of earlier runs that it could resume, or almost."""

import json
import os
import time

import pytest
import torch

from lora.training.checkpoints.earlier_runs import lines_on_earlier_runs, saved_by_this_process
from lora.training.checkpoints.files import MANIFEST
from lora.training.checkpoints.identity import folder_name
from lora.training.checkpoints.store import CheckpointStore

IDENTITY = {
    "base_model": "tiny",
    "lora_rank": 4,
    "resolutions": [64],
    "learning_rate": 0.001,
    "seed": 42,
    "images_and_captions": "0f",
}
OTHERS = {"base_model": "dev", "lora_rank": 16, "learning_rate": 1.0, "images_and_captions": "1e"}


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """The folder for the checkpoints of trainings."""
    monkeypatch.setenv("FLUX_LORA_CHECKPOINTS", str(tmp_path / "checkpoints"))
    return tmp_path / "checkpoints"


def a_run(root, *steps, name="20260101-000000-1", **changes):
    """The folder of a run that saved checkpoints at these steps, of a training with these changes."""
    identity = IDENTITY | changes
    store = CheckpointStore(root / folder_name(identity) / name, identity, report_damage=print)
    for step in steps:
        store.save(step, {"lora": {"a": torch.ones(3)}}, {})
    return store.folder


def lines(*, is_latest):
    return list(lines_on_earlier_runs(IDENTITY, is_latest=is_latest))


def test_without_earlier_runs_nothing_is_said_unless_the_newest_checkpoint_was_asked_for():
    assert lines(is_latest=False) == []
    assert lines(is_latest=True) == [
        "resume_from latest: this training has no checkpoint yet, so it starts from step 0"
    ]


def test_a_run_of_the_same_training_is_named_with_its_step_and_how_to_resume(root):
    a_run(root, 1, 3)
    newest = a_run(root, 2, 7, name="20260102-000000-1")
    (line,) = lines(is_latest=False)
    assert f"checkpoint at step 7, in {newest / 'step-000007'}: this run starts from step 0" in line
    assert "resume_from latest (script/train --resume)" in line


def test_a_run_of_another_training_is_not_named_unless_the_newest_checkpoint_was_asked_for(root):
    a_run(root, 5, learning_rate=0.002)
    assert lines(is_latest=False) == []


def test_the_most_similar_run_is_named_with_the_fields_that_differ(root):
    a_run(root, 9, learning_rate=0.002, seed=1)
    nearest = a_run(root, 5, learning_rate=0.002)
    assert lines(is_latest=True)[1:] == [
        f"the most similar training has a checkpoint at step 5, in {nearest / 'step-000005'}; it differs in"
        " learning_rate (0.002 there, 0.001 here)"
    ]


def test_other_images_or_captions_are_named_without_their_digest(root):
    a_run(root, 5, images_and_captions="1e")
    assert lines(is_latest=True)[1].endswith("it differs in images or captions")


def test_a_training_with_little_in_common_is_not_named(root):
    a_run(root, 5, **OTHERS)
    assert len(lines(is_latest=True)) == 1


def test_a_run_with_a_damaged_manifest_is_passed_over(root):
    (a_run(root, 5) / "step-000005" / MANIFEST).write_text("{")
    assert lines(is_latest=False) == []


def test_a_field_from_a_file_is_shown_on_one_line(root):
    run = a_run(root, 5, seed=1)
    manifest = json.loads((run / "step-000005" / MANIFEST).read_text())
    manifest["identity"]["x\n\x1b[2J" + "y" * 100] = "z\n" * 100
    (run / "step-000005" / MANIFEST).write_text(json.dumps(manifest))
    assert lines(is_latest=True)[1].isprintable()


def test_the_checkpoint_that_this_process_saved_is_known_by_its_number_and_time(root):
    began = time.time() - 60
    assert saved_by_this_process(began) is None
    a_run(root, 9, name="20260101-000000-1")
    a_run(root, 2, 3, name=f"20260101-000000-{os.getpid()}")
    assert saved_by_this_process(began).step == 3
    assert saved_by_this_process(time.time() + 60) is None, "of an earlier process with the same number"
