"""A finished file reaches the path that a person chose whole, or not at all."""

import errno
import os
import resource
import signal
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from script.whole_file import move_whole, refuse_unwritable

OLD, NEW = b"an older LoRA", b"new" * 100_000


@pytest.fixture(params=["the same file system", "another file system"])
def source(request, tmp_path: Path) -> Iterator[Path]:
    """A finished file, with another one for the tests that need a path on another file system."""
    folder = Path("/dev/shm") if request.param == "another file system" else tmp_path
    if not folder.is_dir() or (folder != tmp_path and folder.stat().st_dev == tmp_path.stat().st_dev):
        pytest.skip("this machine has no second file system")
    with tempfile.TemporaryDirectory(dir=folder) as own:
        (Path(own) / "made.tar").write_bytes(NEW)
        yield Path(own) / "made.tar"


@contextmanager
def disk_with(room: int) -> Iterator[None]:
    """A context in which no file can grow beyond `room` bytes."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_file_replaces_the_older_one_at_its_path(tmp_path: Path, source: Path):
    path = tmp_path / "trained_model.tar"
    path.write_bytes(OLD)
    move_whole(source, path)
    assert path.read_bytes() == NEW
    assert not source.exists()
    assert [each.name for each in tmp_path.iterdir() if each.is_file()] == ["trained_model.tar"]


def test_a_moved_file_can_be_read_by_whom_new_files_can_be_read_by(tmp_path: Path, source: Path):
    (tmp_path / "new").touch()
    move_whole(source, tmp_path / "trained_model.tar")
    assert (tmp_path / "trained_model.tar").stat().st_mode == (tmp_path / "new").stat().st_mode


@pytest.mark.parametrize("source", ["another file system"], indirect=True)
def test_a_disk_that_gets_full_costs_neither_the_older_file_nor_the_new_one(tmp_path: Path, source: Path):
    path = tmp_path / "trained_model.tar"
    path.write_bytes(OLD)
    with disk_with(room=len(NEW) // 2), pytest.raises(OSError, match="File too large"):
        move_whole(source, path)
    assert (path.read_bytes(), source.read_bytes()) == (OLD, NEW)
    assert list(tmp_path.iterdir()) == [path], "no part of a file is left"


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path):
    refuse_unwritable(tmp_path / "trained_model.tar")
    assert not list(tmp_path.iterdir())
    with pytest.raises(OSError):
        refuse_unwritable(Path("/proc/trained_model.tar"))


def test_the_permissions_of_new_files_are_as_before(tmp_path: Path, source: Path):
    before = os.umask(0o027)
    try:
        move_whole(source, tmp_path / "trained_model.tar")
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)


def test_a_file_system_that_syncs_no_folders_gets_the_file_without_an_error(source: Path, tmp_path: Path, monkeypatch):
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    move_whole(source, tmp_path / "mine.tar")
    assert (tmp_path / "mine.tar").read_bytes() == NEW
