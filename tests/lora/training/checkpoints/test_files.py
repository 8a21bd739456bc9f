"""A checkpoint is read only if it is undamaged, and untrusted checkpoints are read safely."""

import hashlib
import json
import os
import shutil

import pytest
import torch

from lora.training.checkpoints.files import packed, read_checkpoint
from lora.training.checkpoints.identity import refuse_mismatch
from tests.lora.training.saved import IDENTITY, assert_saved_at, read_error, rewrite_manifest, save, store_in
from tests.tiny import assert_one_sentence


def test_a_checkpoint_can_be_read_back_from_a_tar(tmp_path):
    save(store_in(tmp_path / "here"), 250)
    members = dict(packed(store_in(tmp_path / "here").newest(), folder="last"))
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


def test_the_error_for_a_field_of_an_untrusted_file_is_short_and_printable():
    with pytest.raises(ValueError) as error:
        refuse_mismatch(json.loads(json.dumps(IDENTITY)) | {f"\x1b[31m\r{'x' * 999}": "\x1b"}, IDENTITY, "resume_from")
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lora_rank": 8}, "lora_rank 8: expected 16"),
        ({"base": "dev"}, "base 'dev': expected 'tiny'"),
        ({"resolutions": [512]}, "resolutions [512]: expected [512, 768]"),
        ({"more": 1}, "more 1: expected None"),
        ({"base": None}, "base None: expected 'tiny'"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused_with_the_first_field_that_differs(tmp_path, change, message):
    """Case B43."""
    save(store_in(tmp_path), 250)
    found = store_in(tmp_path).newest().identity
    refuse_mismatch(found, IDENTITY, "resume_from")
    with pytest.raises(ValueError) as error:
        refuse_mismatch(found | change, IDENTITY, "resume_from")
    assert str(error.value) == f"resume_from is from a training with {message}, as in this training"


@pytest.fixture
def untrusted(tmp_path):
    """The folder of a checkpoint, which the tests change as an attacker could."""
    save(store_in(tmp_path), 250)
    return tmp_path / "step-000250"


def test_only_files_that_the_manifest_names_are_used(untrusted):
    (untrusted / "other.tensors").write_bytes(b"rubbish")
    (untrusted / "optimizer.pt").write_bytes(b"rubbish")
    checkpoint = read_checkpoint(untrusted)
    assert_saved_at(checkpoint, 250)
    with pytest.raises(ValueError) as error:
        checkpoint.tensors("other")
    assert_one_sentence(error.value, "has no other: expected one of lora, optimizer")


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
def test_a_manifest_with_an_invalid_file_name_is_refused(untrusted, name):
    """Case B45."""
    files = json.loads((untrusted / "manifest.json").read_text())["files"]
    rewrite_manifest(untrusted, files=files | {name: files["lora.tensors"]})
    read_error(untrusted, "lists the file")


@pytest.mark.parametrize("name", ["lora.tensors", "state.json", "manifest.json"])
def test_a_symlink_is_refused_whatever_its_target(untrusted, tmp_path, name):
    """Case B45; also with the right content, as the target may change afterwards."""
    shutil.move(untrusted / name, tmp_path / "outside")
    (untrusted / name).symlink_to(tmp_path / "outside")
    read_error(untrusted, f"{name} is not a regular file")


def test_a_pipe_is_refused_without_waiting_for_it(untrusted):
    (untrusted / "state.json").unlink()
    os.mkfifo(untrusted / "state.json")
    read_error(untrusted, "state.json is not a regular file")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000, "is not a JSON object"),
        (b"9" * 10_000, "is not a JSON object"),
        (b"[]", "is not a JSON object"),
        (b"\xff", "is not a JSON object"),
        (b"{}", "format None"),
        (b'{"a": "' + b" " * 17 * 2**20 + b'"}', "more than 16777216 bytes"),
    ],
)
def test_an_invalid_manifest_is_refused(untrusted, content, message):
    (untrusted / "manifest.json").write_bytes(content)
    read_error(untrusted, message)


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
def test_a_manifest_with_invalid_fields_is_refused(untrusted, change):
    rewrite_manifest(untrusted, **change)
    assert len(read_error(untrusted)) < 300


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
    read_error(tmp_path / "nowhere", "manifest.json cannot be read")


def test_a_pickle_in_place_of_a_tensor_file_is_refused(untrusted):
    """Case B45: its sha256 is right, and it is never unpickled."""
    torch.save({"a": torch.zeros(3)}, untrusted / "lora.tensors")
    assert_lora_is_refused(untrusted)


def test_the_error_for_a_tensor_file_does_not_repeat_its_escape_codes(untrusted):
    header = json.dumps({"a": {"dtype": "\x1b[31m\r", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (untrusted / "lora.tensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    assert assert_lora_is_refused(untrusted).isprintable()


def assert_lora_is_refused(untrusted):
    """Record the file in the manifest, and return the error for its content."""
    files = json.loads((untrusted / "manifest.json").read_text())["files"]
    content = (untrusted / "lora.tensors").read_bytes()
    entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    rewrite_manifest(untrusted, files=files | {"lora.tensors": entry})
    with pytest.raises(ValueError) as error:
        read_checkpoint(untrusted).tensors("lora")
    assert_one_sentence(error.value, "checkpoint 'step-000250'", "lora.tensors is not a safetensors file")
    return str(error.value)
