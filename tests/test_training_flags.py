"""Folders are packed with what a training uses, and no command overwrites what this project did not make."""

import io
import os
import tarfile
import tempfile
from pathlib import Path

import pytest
from PIL import Image

from lora.dataset import selection
from lora.images.products import maker_of, png_mark
from script import check
from script.training_flags import archived, is_our_image, is_trained_tar, refuse_output
from tests.lora.dataset.archives import tarred
from tests.tiny import encoded, noisy_image, read_archive, write

PHOTO = encoded(noisy_image(), "JPEG")


def folder_of(path, members):
    for name, content in members.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        write(path / name, content)
    return path


def test_of_a_file_that_is_not_used_only_the_name_is_packed(tmp_path, monkeypatch):
    monkeypatch.setattr(selection, "MAX_BYTES_OF_A_MEMBER", len(PHOTO))
    members = {"1.jpg": PHOTO, "1.txt": b"one", "a.mp4": bytes(999), "big.tif": bytes(99_999), "reg/1_x/2.jpg": PHOTO}
    folder = folder_of(tmp_path / "photos", members | {"b.data": bytes(99_999), ".hidden.jpg": PHOTO, "c.data": PHOTO})
    with archived(str(folder)) as tar:
        with tarfile.open(tar) as packed:
            sizes = {member.name: member.size for member in packed}
        dataset = read_archive(write(tmp_path / "tar", Path(tar).read_bytes()), into=tmp_path / "into").dataset
    assert {name for name, size in sizes.items() if size} == {"1.jpg", "1.txt", "c.data"}
    assert [(image.name, image.prompt) for image in dataset.images] == [("1.jpg", "TOK one"), ("c.data", "TOK")]
    assert {file.name: file.reason[:13] for file in dataset.skipped} == {
        "a.mp4": "a video: only",
        "b.data": "neither an im",
        "big.tif": "it has 99,999",
        "reg/1_x/2.jpg": "a regularizat",
    }


def test_a_second_check_of_a_folder_does_not_train_on_the_sheet_of_the_first(tmp_path, monkeypatch, capsys):
    folder = folder_of(tmp_path / "photos", {"1.jpg": PHOTO, "2.jpg": encoded(noisy_image(seed=1), "JPEG")})
    monkeypatch.chdir(folder)
    for _ in range(2):
        monkeypatch.setattr("sys.argv", ["script/check", ".", "--resolution", "64"])
        check.main()
        assert capsys.readouterr().out.startswith("2 images"), "the sheet is replaced, and never trained"
    assert maker_of(folder / "check.png") == "script/check"


@pytest.mark.parametrize("content", [PHOTO, encoded(noisy_image()), b"text", tarred({"a.jpg": PHOTO})])
def test_a_file_that_the_project_did_not_make_is_not_overwritten(tmp_path, content):
    path = write(tmp_path / "mine", content)
    for is_ours in (is_our_image, is_trained_tar):
        with pytest.raises(SystemExit, match="a file that this project did not make: expected a new name; or delete"):
            refuse_output(path, is_ours=is_ours)
    assert path.read_bytes() == content


def test_no_device_is_replaced_by_a_file(tmp_path):
    """Who may write to its folder, as root may, would lose /dev/null to a tar."""
    os.mkfifo(tmp_path / "pipe")
    for path in (Path("/dev/null"), tmp_path / "pipe"):
        with pytest.raises(SystemExit, match="expected a file in an existing folder"):
            refuse_output(path, is_ours=is_trained_tar)


def test_the_photos_that_a_killed_command_packed_are_deleted_at_the_next_start(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed = tmp_path / "flux-lora-folder-input_images-1-killed"
    folder_of(killed, {"folder.tar": PHOTO})
    os.utime(killed, (0, 0))
    with archived(str(folder_of(tmp_path / "photos", {"1.jpg": PHOTO}))) as tar:
        assert not killed.exists()
        assert Path(tar).exists()
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


@pytest.mark.parametrize("content", [None, b"", encoded(noisy_image(), pnginfo=png_mark("script/check"))])
def test_a_sheet_may_be_new_or_replace_one(tmp_path, content):
    path = tmp_path / "check.png"
    if content is not None:
        path.write_bytes(content)
    refuse_output(path, is_ours=is_our_image)


def test_the_tar_of_a_training_may_be_replaced(tmp_path):
    name = "output/flux_train_replicate/lora.safetensors"
    refuse_output(write(tmp_path / "a.tar", tarred({name: b"weights"})), is_ours=is_trained_tar)


def test_a_mark_survives_in_the_file_and_not_in_the_name(tmp_path):
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "PNG", pnginfo=png_mark("script/check"))
    assert maker_of(write(tmp_path / "holiday.jpg", file.getvalue())) == "script/check"
    assert maker_of(write(tmp_path / "check.png", PHOTO + b"flux-lora script/check")) is None
