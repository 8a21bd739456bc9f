"""The cache: limited in bytes, safe for several processes, and complete whenever a process ends; C40 to C44."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lora.dataset.cache import DEFAULT_FOLDER
from script.cog_server import ROOT
from weights.cache.manifest import read_manifest
from weights.cache.store import CacheLimits, Store, default_folder

KEY, OTHER, THIRD = "a" * 64, "b" * 64, "c" * 64


def a_store(tmp_path, **changes):
    return Store(tmp_path / "cache", CacheLimits(**{"spare_bytes": 0, **changes}))


def put(store, key, content=b"content", *, credential="", etag='"1"'):
    with store.locked(key) as entry:
        entry.partial.write_bytes(content)
        entry.commit(hashlib.sha256(content).hexdigest(), len(content), etag, credential=credential)


def get(store, key):
    with store.locked(key) as entry:
        cached_file = entry.cached_file()
        if cached_file is None:
            return None
        with entry.open(cached_file) as file:
            return file.read()


def contents(store):
    return sorted(path.name for path in store.folder.iterdir() if path.suffix != ".lock")


def set_last_used(store, key, when):
    os.utime(store.folder / f"{key}.json", (when, when))


def test_a_committed_file_is_found_by_another_store_of_the_same_folder(tmp_path):
    put(a_store(tmp_path), KEY)
    assert get(a_store(tmp_path), KEY) == b"content"
    assert get(a_store(tmp_path), OTHER) is None


def test_only_the_owner_has_access_to_the_folder(tmp_path):
    put(a_store(tmp_path), KEY)
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700


def test_a_partial_file_that_was_not_committed_is_removed(tmp_path):
    store = a_store(tmp_path)
    with pytest.raises(RuntimeError), store.locked(KEY) as entry:
        entry.partial.write_bytes(b"half")
        raise RuntimeError
    assert contents(store) == []


def test_a_newer_file_replaces_the_older_one_and_its_credentials(tmp_path):
    store = a_store(tmp_path)
    put(store, KEY, b"old", credential="x")
    put(store, KEY, b"new", credential="y")
    assert get(store, KEY) == b"new"
    assert len(contents(store)) == 2
    assert list(read_manifest(store.folder / f"{KEY}.json").visitors) == ["y"]


def test_a_public_file_is_accessible_to_all_and_a_private_one_to_accepted_credentials(tmp_path):
    """C2 of the peers' bugs: the private LoRA of one user must not be served to another."""
    store = a_store(tmp_path)
    put(store, KEY, credential="x")
    put(store, OTHER, credential="")
    with store.locked(KEY) as entry:
        assert entry.has_access("x", entry.cached_file())
        assert not entry.has_access("y", entry.cached_file())
        assert not entry.has_access("", entry.cached_file())
        entry.grant_access("y", entry.cached_file())
        assert entry.has_access("y", entry.cached_file())
        assert entry.has_access("x", entry.cached_file())
    with store.locked(OTHER) as entry:
        assert entry.has_access("x", entry.cached_file())


def test_access_expires(tmp_path):
    """C43."""
    store = a_store(tmp_path, fresh_seconds=0.2)
    put(store, KEY)
    with store.locked(KEY) as entry:
        assert entry.has_access("", entry.cached_file())
        time.sleep(0.25)
        assert not entry.has_access("", entry.cached_file())


def test_the_least_recently_used_file_is_evicted_first(tmp_path):
    store = a_store(tmp_path, most_bytes=25)
    for when, key in enumerate((KEY, OTHER, THIRD)):
        put(store, key, key[:1].encode() * 8)
        set_last_used(store, key, when)
    get(store, KEY)
    store.make_room(8)
    assert get(store, KEY)
    assert get(store, OTHER) is None
    assert get(store, THIRD)


def test_nothing_is_evicted_if_the_file_fits(tmp_path):
    store = a_store(tmp_path, most_bytes=100)
    put(store, KEY)
    store.make_room(90)
    assert get(store, KEY)


def test_a_locked_file_is_never_evicted(tmp_path):
    """C41."""
    store = a_store(tmp_path, most_bytes=1)
    put(store, KEY)
    put(store, OTHER)
    with store.locked(KEY) as entry:
        store.make_room(100)
        assert entry.cached_file()
    assert get(store, OTHER) is None


def test_the_key_that_needs_room_keeps_its_own_file(tmp_path):
    store = a_store(tmp_path, most_bytes=1)
    put(store, KEY)
    with store.locked(KEY) as entry:
        store.make_room(100)
        assert entry.cached_file()


def test_an_open_file_stays_readable_when_it_is_evicted(tmp_path):
    """C41."""
    store = a_store(tmp_path, most_bytes=1)
    put(store, KEY)
    with store.locked(KEY) as entry:
        file = entry.open(entry.cached_file())
    store.make_room(100)
    assert get(store, KEY) is None
    with file:
        assert file.read() == b"content"


def test_a_full_disk_is_reported_after_everything_was_evicted(tmp_path):
    """C41."""
    store = a_store(tmp_path, spare_bytes=2**60)
    put(store, KEY)
    with pytest.raises(OSError, match="does not fit on the disk"):
        store.make_room(1)
    assert get(store, KEY) is None


def test_files_left_by_a_killed_process_are_evicted_when_room_is_needed(tmp_path):
    store = a_store(tmp_path, most_bytes=10)
    put(store, KEY, b"12345678")
    (store.folder / f"{OTHER}.part").write_bytes(bytes(100))
    (store.folder / f"{THIRD}-0123456789abcdef.bin").write_bytes(bytes(100))
    store.make_room(1)
    assert get(store, KEY)
    assert len(contents(store)) == 2


def test_unknown_files_in_the_folder_are_left_alone(tmp_path):
    store = a_store(tmp_path, most_bytes=1)
    put(store, KEY)
    (store.folder / "notes.txt").write_text("mine")
    (store.folder / "mine.bin").write_text("mine")
    store.make_room(100)
    assert contents(store) == ["mine.bin", "notes.txt"]


@pytest.mark.parametrize("manifest", [b"", b"{", b"[]", b"{}", b'{"sha256": 1, "size": "x"}', b"\xff", None])
def test_a_damaged_manifest_counts_as_missing(tmp_path, manifest):
    store = a_store(tmp_path)
    put(store, KEY)
    if manifest is None:
        (store.folder / f"{KEY}.json").unlink()
    else:
        (store.folder / f"{KEY}.json").write_bytes(manifest)
    assert get(store, KEY) is None
    put(store, KEY)
    assert get(store, KEY) == b"content"


@pytest.mark.parametrize("content", [None, b"", b"conten"])
def test_an_incomplete_file_counts_as_missing(tmp_path, content):
    store = a_store(tmp_path)
    put(store, KEY)
    (path,) = store.folder.glob("*.bin")
    path.unlink() if content is None else path.write_bytes(content)
    assert get(store, KEY) is None


def test_a_manifest_contains_digests_and_times_only(tmp_path):
    store = a_store(tmp_path)
    put(store, KEY)
    assert set(json.loads((store.folder / f"{KEY}.json").read_text())) == {"sha256", "size", "etag", "visitors"}


def test_only_one_thread_at_a_time_holds_the_lock_of_a_key(tmp_path):
    """C40."""
    store, holders, counts = a_store(tmp_path), [], []

    def handle(_):
        with store.locked(KEY):
            holders.append(1)
            counts.append(len(holders))
            time.sleep(0.01)
            holders.pop()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(handle, range(8)))
    assert max(counts) == 1


def test_many_references_leave_few_lock_files(tmp_path):
    store = a_store(tmp_path)
    for index in range(50):
        with store.locked(f"abc{index:061d}"):
            pass
    assert [path.name for path in store.folder.iterdir()] == ["abc.lock"]


def test_an_old_record_of_a_missing_file_is_removed_and_a_cached_file_is_not(tmp_path):
    """Requests for guessed names must not accumulate files."""
    store = a_store(tmp_path, fresh_seconds=60)
    put(store, OTHER)
    for key in (KEY, THIRD):
        with store.locked(key) as entry:
            entry.record_missing("")
    set_last_used(store, KEY, 0)
    set_last_used(store, OTHER, 0)
    with store.locked("d" * 64) as entry:
        entry.record_missing("")
    assert not (store.folder / f"{KEY}.json").exists()
    assert (store.folder / f"{THIRD}.json").exists()
    assert get(store, OTHER) == b"content"


COMMIT_PROGRAM = """
import hashlib, sys
from pathlib import Path
from weights.cache.store import CacheLimits, Store
store = Store(Path(sys.argv[1]), CacheLimits(most_bytes=3_000_000, spare_bytes=0))
print("ready", flush=True)
for number in range(100_000):
    key = str(number % 3) * 64
    content = bytes([number % 256]) * 1_000_000
    with store.locked(key) as entry:
        store.make_room(len(content))
        with entry.partial.open("wb") as file:
            for start in range(0, len(content), 100_000):
                file.write(content[start : start + 100_000])
        entry.commit(hashlib.sha256(content).hexdigest(), len(content), "", credential="")
"""


def test_a_kill_at_any_moment_leaves_every_file_complete_or_missing(tmp_path):
    store = Store(tmp_path, CacheLimits(most_bytes=3_000_000, spare_bytes=0))
    for delay in (0.0, 0.003, 0.01, 0.017, 0.03, 0.05, 0.08):
        process = subprocess.Popen(
            [sys.executable, "-c", COMMIT_PROGRAM, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE
        )
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        for key in (digit * 64 for digit in "012"):
            with store.locked(key) as entry:
                cached_file = entry.cached_file()
                if cached_file:
                    assert hashlib.sha256(entry.open(cached_file).read()).hexdigest() == cached_file.sha256


def test_the_default_folder_is_in_the_cache_folder_of_the_user(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "flux-lora-downloads"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_folder().parts[-2:] == (".cache", "flux-lora-downloads")


def test_the_default_folder_is_not_that_of_encoded_images(monkeypatch):
    """That folder removes files that it does not know."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    images = Path(DEFAULT_FOLDER).expanduser()
    assert images not in [default_folder(), *default_folder().parents]
