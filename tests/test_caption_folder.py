"""The folder of captions that `script/check` writes: what is in it, what is refused, and that it is read again."""

import os
import re
import sys
from pathlib import Path

import pytest

from lora.dataset.captions import PromptRule
from script import check
from script.caption_editor.page import editable
from script.caption_folder import make_folder, refuse_saved_zip, write_captions
from script.training_flags import archived
from tests.tiny import encoded, noisy_image, read_archive, write, zipped

RULE = PromptRule("TOK", "", "")
IMAGES = {name: encoded(noisy_image(64, 64, seed=seed)) for seed, name in enumerate(("a.png", "b.png"))}


def read(tmp_path, members, **options):
    archive = write(tmp_path / "images.zip", zipped(IMAGES | members))
    return read_archive(archive, into=tmp_path / f"into-{len([*tmp_path.iterdir()])}", **options)


def test_a_folder_of_captions_is_read_again_as_it_was_edited(tmp_path):
    found = read(tmp_path, {"a.txt": "kept,\r\nin two lines", "b.txt": "old"})
    line = write_captions(found.dataset, found.inspector, tmp_path / "out", RULE, describes_empty=True)
    assert line.endswith(f"then train with --input-captions captions.zip, or {tmp_path}/out")
    assert (tmp_path / "out/a.txt").read_text() == "kept,\nin two lines\n"
    (tmp_path / "out/b.txt").write_text("by hand")
    with archived(str(tmp_path / "out"), named="input_captions") as captions:
        again = read(tmp_path, {"b.txt": "old"}, captions=Path(captions))
    assert [image.prompt for image in again.dataset.images] == ["TOK kept, in two lines", "TOK by hand"]
    assert again.dataset.skipped == (), "the page is no problem"


@pytest.mark.parametrize(
    ("text", "edited"),
    [
        ("half \ud83d a face", "half ? a face"),
        ("a\x00b\x1bc", "a b c"),
        (" a\r\n\r\n b\u2028c ", "a\nb\nc"),
        ("\n", ""),
    ],
)
def test_what_neither_a_file_nor_a_page_can_hold_is_left_out_of_captions(text, edited):
    assert editable(text) == edited
    assert RULE.prompt(edited) == RULE.prompt(text)


def test_a_folder_that_cannot_be_made_is_refused_before_anything_is_read(tmp_path, monkeypatch):
    file = write(tmp_path / "file", b"")
    monkeypatch.setattr(sys, "argv", ["script/check", "nothing.zip", "--captions", str(file / "out")])
    with pytest.raises(SystemExit) as refused:
        check.main()
    assert str(refused.value) == (
        f"error: --captions is '{file}/out', which cannot be used (Not a directory): expected a new or empty folder"
    )
    make_folder(tmp_path / "new" / "out")
    make_folder(tmp_path / "new" / "out")


def test_of_several_saved_zips_the_latest_is_recommended(tmp_path):
    write(tmp_path / "index.html", b"")
    for seconds, name in enumerate(("captions.zip", "captions (2).zip", "captions (1).zip")):
        os.utime(write(tmp_path / name, b""), (seconds, seconds))
    with pytest.raises(ValueError, match=re.escape("captions (1).zip, or a folder without it")):
        refuse_saved_zip(tmp_path)


@pytest.mark.parametrize("name", ["captions.zip", "captions (1).zip"])
def test_a_folder_with_the_zip_that_its_page_saved_is_refused(tmp_path, name):
    found = read(tmp_path, {"a.txt": "old"})
    write_captions(found.dataset, found.inspector, tmp_path / "out", RULE, describes_empty=True)
    saved = write(tmp_path / "out" / name, zipped({"a.txt": "new"}))
    with (
        pytest.raises(
            ValueError, match=r"^input_captions holds 'captions.*, and the files as they were before"
        ) as error,
        archived(str(tmp_path / "out"), named="input_captions"),
    ):
        pass
    assert f"expected --input-captions {saved}, or a folder without it" in str(error.value)
