"""The folder of a job exists as long as it is needed, and is deleted however the job ends."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from lora.workspace import clear_folder, named_file, own_temporary_folder, workspace
from tests.project_rules import ROOT
from tests.tiny import assert_one_sentence
from weights.local_files import ReadableFolders


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_the_result_of_a_job_stays_until_the_next_job_of_the_same_kind(temporary):
    with workspace("train") as folder:
        (folder / "result").write_text("1")
    assert (folder / "result").read_text() == "1"
    with workspace("predict"):
        assert folder.exists()
    with workspace("train") as other:
        assert list(temporary.glob("*-train-*")) == [other]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failed_or_cancelled_job_leaves_no_files(temporary, error):
    with pytest.raises(error), workspace("train") as folder:
        (folder / "half").write_text("")
        raise error
    assert list(temporary.iterdir()) == []


KILLED = """
import os, signal
from lora.workspace import workspace
with workspace("train") as folder:
    (folder / "photo.jpg").touch()
    print(folder, flush=True)
    {how}
"""


def folder_of(how):
    """The folder of a job in another process, and that process, which has ended its job like this or is in it."""
    environment = {**os.environ, "TMPDIR": tempfile.gettempdir()}
    command = [sys.executable, "-c", KILLED.format(how=how)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    return Path(process.stdout.readline().strip()), process


def age(folder, seconds):
    os.utime(folder, (time.time() - seconds,) * 2)


def test_the_folder_of_a_killed_process_is_deleted_at_the_next_start():
    folder, process = folder_of("os.kill(os.getpid(), signal.SIGKILL)")
    process.wait()
    assert (folder / "photo.jpg").exists()
    age(folder, 3)
    with workspace("train"):
        assert not folder.exists()


def test_the_folder_of_a_running_process_stays():
    folder, process = folder_of("input()")
    age(folder, 9 * 24 * 3600)
    with workspace("train"):
        assert folder.exists()
    process.communicate("\n")


@pytest.mark.parametrize(("hours", "stays"), [(7 * 24, True), (8 * 24 + 1, False)])
def test_a_result_of_another_process_is_deleted_after_more_than_a_week(hours, stays):
    """Somebody may still want it: script/train leaves the tar there if it cannot be moved."""
    folder, process = folder_of("pass")
    process.wait()
    age(folder, 3600 * hours)
    with workspace("train"):
        assert folder.exists() is stays


def test_each_process_has_its_own_temporary_folder(temporary):
    """Cog runs in the same process, and stores the files of requests in this folder."""
    own_folder = own_temporary_folder("inputs")
    with tempfile.NamedTemporaryFile() as file:
        assert Path(file.name).parent == own_folder
    assert own_folder.parent == temporary
    assert own_folder.stat().st_mode & 0o777 == 0o700


HOLDER = """
import os, sys, tempfile
from lora.workspace import own_temporary_folder
tempfile.tempdir = sys.argv[1]
print(own_temporary_folder("inputs"), flush=True)
sys.stdin.read()
os.kill(os.getpid(), 9) if sys.argv[2] == "killed" else None
"""


@pytest.mark.parametrize("end", ["killed", "in peace"])
def test_the_folder_of_another_server_stays_until_that_server_exits(temporary, monkeypatch, end):
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


def test_a_removed_folder_is_recreated(temporary):
    own_folder = own_temporary_folder("inputs")
    own_folder.rmdir()
    clear_folder(own_folder, keep=())
    assert own_folder.stat().st_mode & 0o777 == 0o700
    tempfile.tempdir = str(temporary)
    own_temporary_folder("inputs")
    assert own_folder.is_dir()


def test_clear_folder_keeps_only_the_files_of_the_request(temporary):
    for name in ("left", "image", "mask"):
        (temporary / name).write_text("")
    (temporary / "outputs").mkdir()
    (temporary / "outputs" / "0.png").write_text("")
    clear_folder(temporary, keep=(temporary / "image", None, temporary / "mask"))
    assert {path.name for path in temporary.iterdir()} == {"image", "mask"}


def test_a_path_that_was_not_uploaded_is_refused(temporary):
    """D10: a path in another folder, a path that leaves our folder, and a link in our folder."""
    own_folder, other = temporary / "own", temporary / "other"
    own_folder.mkdir()
    other.write_text("")
    (own_folder / "sent").write_text("")
    (own_folder / "link").symlink_to(other)
    readable = ReadableFolders.of_uploads(own_folder)
    assert named_file("image", own_folder / "sent", readable) == own_folder / "sent"
    for path in (other, own_folder / ".." / "other", own_folder / "link", Path("other"), "other", 5, ["x"]):
        with pytest.raises(ValueError, match="expected an https:// URL, a data URI or an uploaded file") as error:
            named_file("mask", path, readable)
        assert_one_sentence(error.value, "mask is")


def test_a_path_with_a_nul_character_is_refused(temporary):
    with pytest.raises(ValueError) as error:
        named_file("image", "a\0b", ReadableFolders.of_uploads(temporary))
    assert_one_sentence(error.value, "image has a NUL character at position 1", "expected")


@pytest.mark.parametrize("blank", [None, "", " "])
def test_blank_text_counts_as_no_file(temporary, blank):
    """Cog passes blank text through unchanged."""
    assert named_file("image", blank, ReadableFolders.of_uploads(temporary)) is None


@pytest.mark.parametrize("kind", ["a data URI", "a URL"])
def test_what_only_a_server_receives_is_refused_without_repeating_it(temporary, kind):
    """A data URI has megabytes, and a URL a signature."""
    value = {"a data URI": f"data:image/png;base64,{'QUJD' * 3000}", "a URL": "https://a.example/x.png?s3cret"}[kind]
    for given in (value, Path(value), value.upper()):
        with pytest.raises(ValueError) as error:
            named_file("image", given, ReadableFolders.of_uploads(temporary))
        assert_one_sentence(error.value, f"image is {kind}", "expected the path of a file")
        assert len(str(error.value)) < 150
        assert "s3cret" not in str(error.value).lower()
