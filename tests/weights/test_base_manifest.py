"""Files of a base are compared with the sha256 that their source published, once for each version of a file."""

import hashlib
import os

import pytest

from tests.base_services import LARGE, files_of, small_base
from tests.tiny import assert_one_sentence, write
from weights import bases
from weights.base_files import weight_files
from weights.base_manifest import Manifest, ManifestEntry, check_digests, is_complete, read_manifest, write_manifest
from weights.bases import Base, check_base

SOURCE = "hf://o/r@c0ffee"


@pytest.fixture
def base(tmp_path):
    """A small base with a manifest, none of whose files was checked yet."""
    folder = small_base(tmp_path / "base")
    digests = {path: hashlib.sha256(content).hexdigest() for path, content in files_of(folder).items()}
    entries = [ManifestEntry(path, (folder / path).stat().st_size, digests[path], 0) for path in digests]
    write_manifest(Manifest(SOURCE, tuple(entries)), folder)
    return folder


def check(folder):
    """Check a folder; return the lines of the log, one for each time that files are hashed."""
    check_digests(folder, published=[], log_line=lambda line: None)
    return {entry.path: entry.mtime for entry in read_manifest(folder).files}


def damage(folder):
    """Change the last byte of the transformer, as a failing disk does: the size stays, and here the time, too."""
    file, content = folder / LARGE, (folder / LARGE).read_bytes()
    status = file.stat()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def refusal(folder):
    with pytest.raises(ValueError) as error:
        check(folder)
    assert_one_sentence(error.value, f"{folder / LARGE} is damaged, or was replaced: found the sha256", f"of {SOURCE}")


def test_a_damaged_file_of_the_right_size_is_refused(base):
    damage(base)
    refusal(base)
    refusal(base)


def test_a_file_is_hashed_once_until_its_time_or_size_changes(base):
    checked = check(base)
    assert checked[LARGE] == int((base / LARGE).stat().st_mtime)
    damage(base)
    check(base)  # not noticed: it looks like the file that was checked
    os.utime(base / LARGE, (1, 1))
    refusal(base)


def test_a_copy_whose_times_are_kept_in_seconds_is_not_hashed_again(base):
    """As in the layers of an image."""
    check(base)
    damage(base)
    seconds = int((base / LARGE).stat().st_mtime)
    os.utime(base / LARGE, (seconds, seconds))
    check(base)


def test_a_manifest_that_cannot_be_written_does_not_matter(base):
    (base / "manifest.json.incomplete").mkdir()
    assert check(base)[LARGE] == 0


def test_a_base_without_a_manifest_is_compared_with_what_hf_download_stored(base):
    (base / "manifest.json").unlink()
    metadata = base / ".cache/huggingface/download" / f"{LARGE}.metadata"
    metadata.parent.mkdir(parents=True)
    digest = hashlib.sha256((base / LARGE).read_bytes()).hexdigest()
    write(metadata, f"{'c' * 40}\n{digest}\n1712656091.123\n".encode())
    check_digests(base, published=weight_files(base), log_line=print)
    assert [entry.path for entry in read_manifest(base).files] == [LARGE], "the next check needs not hash it"
    (base / "manifest.json").unlink()
    damage(base)
    with pytest.raises(ValueError, match="hf download"):
        check_digests(base, published=weight_files(base), log_line=print)


def test_a_base_of_unknown_origin_is_not_hashed(base):
    (base / "manifest.json").unlink()
    damage(base)
    check_digests(base, published=weight_files(base), log_line=print)
    assert read_manifest(base) is None


def test_the_error_of_a_published_base_says_what_to_do(base, monkeypatch):
    monkeypatch.setattr(bases, "WEIGHTS", base.parent)
    damage(base)
    with pytest.raises(ValueError) as error:
        check_base(Base("dev", base, "run `script/download dev`"))
    assert_one_sentence(error.value, "the base dev: ", "is damaged", "; remove it, then run `script/download dev`")


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"source": "x", "files": [{"path": 1}]}', b"\xff"])
def test_another_file_with_that_name_is_no_manifest(base, content):
    (base / "manifest.json").write_bytes(content)
    assert read_manifest(base) is None
    assert not is_complete(base)


def test_a_base_is_complete_if_all_files_are_there_with_their_sizes(base):
    assert is_complete(base)
    (base / LARGE).write_bytes(b"x")
    assert not is_complete(base)
