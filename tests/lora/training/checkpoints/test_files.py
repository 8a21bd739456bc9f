"""A checkpoint is read only if it is whole, whoever wrote it."""

import hashlib
import json
import os
import shutil

import pytest
import torch

from lora.training.checkpoints.files import packed, read_checkpoint
from lora.training.checkpoints.identity import refuse_other
from tests.lora.training.saved import IDENTITY, assert_saved_at, opened, refusal, rewrite, save
from tests.tiny import assert_one_sentence


def test_a_tar_gives_the_checkpoint_back(tmp_path):
    save(opened(tmp_path / "here"), 250)
    members = dict(packed(opened(tmp_path / "here").newest(), folder="last"))
    assert sorted(members) == [
        "resume/last/lora.tensors",
        "resume/last/manifest.json",
        "resume/last/optimizer.tensors",
        "resume/last/state.json",
    ]
    for name, path in members.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, tmp_path / name)
    assert_saved_at(read_checkpoint(tmp_path / "resume/last"), 250)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"lora_rank": 8}, "lora_rank 8: expected 16"),
        ({"base": "dev"}, "base 'dev': expected 'tiny'"),
        ({"resolutions": [512]}, "resolutions [512]: expected [512, 768]"),
        ({"more": 1}, "more 1: expected None"),
        ({"base": None}, "base None: expected 'tiny'"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused_by_the_first_field_that_differs(tmp_path, change, told):
    """Case B43."""
    save(opened(tmp_path), 250)
    found = opened(tmp_path).newest().identity
    refuse_other(found, IDENTITY, "resume_from")
    with pytest.raises(ValueError) as error:
        refuse_other(found | change, IDENTITY, "resume_from")
    assert str(error.value) == f"resume_from holds a training of {told}, as this one has"


@pytest.fixture
def strangers(tmp_path):
    """A folder in which a stranger may change what they like."""
    save(opened(tmp_path), 250)
    return tmp_path / "step-000250"


def test_only_files_that_the_manifest_names_are_used(strangers):
    (strangers / "other.tensors").write_bytes(b"rubbish")
    (strangers / "optimizer.pt").write_bytes(b"rubbish")
    checkpoint = read_checkpoint(strangers)
    assert_saved_at(checkpoint, 250)
    with pytest.raises(ValueError) as error:
        checkpoint.tensors("other")
    assert_one_sentence(error.value, "holds no other: expected lora, optimizer")


@pytest.mark.parametrize(
    "name",
    [
        "../secret.tensors",
        "/etc/passwd",
        "optimizer.pt",
        "a.pkl",
        "a/b.tensors",
        ".tensors",
        "é.tensors",
        "a.tensors\n",
    ],
)
def test_a_name_that_is_not_of_a_plain_file_of_tensors_is_refused(strangers, name):
    """Case B45."""
    files = json.loads((strangers / "manifest.json").read_text())["files"]
    rewrite(strangers, files=files | {name: files["lora.tensors"]})
    refusal(strangers, "names a file")


@pytest.mark.parametrize("name", ["lora.tensors", "state.json", "manifest.json"])
def test_a_link_is_refused_wherever_it_leads(strangers, tmp_path, name):
    """Case B45; with the right content, too, as the folder may be somebody else's by then."""
    shutil.move(strangers / name, tmp_path / "outside")
    (strangers / name).symlink_to(tmp_path / "outside")
    refusal(strangers, f"{name} is no plain file")


def test_a_pipe_is_refused_and_not_waited_for(strangers):
    (strangers / "state.json").unlink()
    os.mkfifo(strangers / "state.json")
    refusal(strangers, "state.json is no plain file")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"[" * 100_000, "in JSON"),
        (b"9" * 10_000, "in JSON"),
        (b"[]", "in JSON"),
        (b"\xff", "in JSON"),
        (b"{}", "format None"),
        (b'{"a": "' + b" " * 17 * 2**20 + b'"}', "more than 16777216 bytes"),
    ],
)
def test_a_manifest_that_is_none_is_refused(strangers, content, told):
    (strangers / "manifest.json").write_bytes(content)
    refusal(strangers, told)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"format": "x" * 1000},
        {"step": -1},
        {"step": True},
        {"step": "1"},
        {"identity": []},
        {"files": []},
        {"files": {}},
        {"files": {"state.json": None}},
        {"files": {"state.json": {"bytes": 5}}},
        {"files": {"state.json": {}} | {f"a{index}.tensors": {} for index in range(64)}},
    ],
)
def test_a_manifest_of_other_fields_is_refused(strangers, change):
    rewrite(strangers, **change)
    assert len(refusal(strangers)) < 300


def test_a_folder_of_no_checkpoint_is_refused(tmp_path):
    refusal(tmp_path / "nowhere", "manifest.json cannot be read")


def test_a_pickle_by_the_name_of_tensors_is_refused(strangers):
    """Case B45: its sha256 is right, and it is never unpickled."""
    torch.save({"a": torch.zeros(3)}, strangers / "lora.tensors")
    files = json.loads((strangers / "manifest.json").read_text())["files"]
    content = (strangers / "lora.tensors").read_bytes()
    entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    rewrite(strangers, files=files | {"lora.tensors": entry})
    with pytest.raises(ValueError) as error:
        read_checkpoint(strangers).tensors("lora")
    assert_one_sentence(error.value, "checkpoint 'step-000250'", "lora.tensors holds no tensors")
