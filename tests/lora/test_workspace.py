"""A job's folder is there as long as it is needed, and goes however the job ends."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from lora.workspace import clear, own_temporary_folder, sent, workspace
from tests.project_rules import ROOT
from tests.tiny import assert_one_sentence


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_what_a_job_returns_is_there_until_the_next_job_of_its_kind(temporary):
    with workspace("train") as folder:
        (folder / "result").write_text("1")
    assert (folder / "result").read_text() == "1"
    with workspace("predict"):
        assert folder.exists()
    with workspace("train") as other:
        assert list(temporary.glob("*-train-*")) == [other]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_job_that_fails_or_is_cancelled_leaves_nothing(temporary, error):
    with pytest.raises(error), workspace("train") as folder:
        (folder / "half").write_text("")
        raise error
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(("hours", "stays"), [(7 * 24, True), (8 * 24 + 1, False)])
def test_what_another_process_left_goes_after_more_than_a_week(temporary, hours, stays):
    """It may have been killed; or it may be at work."""
    left = temporary / f"flux-lora-train-{os.getpid() + 1}-x"
    left.mkdir()
    os.utime(left, (time.time() - 3600 * hours,) * 2)
    with workspace("train"):
        assert left.exists() is stays


def test_a_process_has_a_temporary_folder_of_its_own(temporary):
    """Which Cog, in the same process, puts the files of requests into."""
    own = own_temporary_folder("inputs")
    with tempfile.NamedTemporaryFile() as file:
        assert Path(file.name).parent == own
    assert own.parent == temporary
    assert own.stat().st_mode & 0o777 == 0o700


HOLDER = """
import os, sys, tempfile
from lora.workspace import own_temporary_folder
tempfile.tempdir = sys.argv[1]
print(own_temporary_folder("inputs"), flush=True)
sys.stdin.read()
os.kill(os.getpid(), 9) if sys.argv[2] == "killed" else None
"""


@pytest.mark.parametrize("end", ["killed", "in peace"])
def test_the_folder_of_another_server_is_there_as_long_as_that_lives(temporary, monkeypatch, end):
    command = [sys.executable, "-c", HOLDER, str(temporary), end]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as other:
        theirs = Path(other.stdout.readline().strip())
        os.utime(theirs, (0, 0))
        own_temporary_folder("inputs")
        assert theirs.is_dir()
        other.communicate("")
    assert theirs.exists() is (end == "killed")
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    own_temporary_folder("inputs")
    assert not theirs.exists()


def test_a_folder_that_was_taken_away_is_made_anew(temporary):
    own = own_temporary_folder("inputs")
    own.rmdir()
    clear(own, keep=())
    assert own.stat().st_mode & 0o777 == 0o700
    tempfile.tempdir = str(temporary)
    own_temporary_folder("inputs")
    assert own.is_dir()


def test_all_but_the_files_of_the_request_is_cleared(temporary):
    for name in ("left", "image", "mask"):
        (temporary / name).write_text("")
    (temporary / "outputs").mkdir()
    (temporary / "outputs" / "0.png").write_text("")
    clear(temporary, keep=(temporary / "image", None, temporary / "mask"))
    assert {path.name for path in temporary.iterdir()} == {"image", "mask"}


def test_a_file_that_a_request_names_and_does_not_bring_is_refused(temporary):
    """D10; neither by another folder, nor on the way through ours, nor by a link in it."""
    own, other = temporary / "own", temporary / "other"
    own.mkdir()
    other.write_text("")
    (own / "sent").write_text("")
    (own / "link").symlink_to(other)
    assert sent(own, "image", own / "sent") == own / "sent"
    for path in (other, own / ".." / "other", own / "link", Path("other"), "other", 5, ["x"]):
        with pytest.raises(ValueError, match="expected an https:// URL") as error:
            sent(own, "mask", path)
        assert_one_sentence(error.value, "mask is")


@pytest.mark.parametrize("blank", [None, "", " "])
def test_blank_text_is_no_file(temporary, blank):
    """Which Cog hands on as it is."""
    assert sent(temporary, "image", blank) is None
