"""The cache: by bytes, for several processes, and whole whenever a process ends; C40 to C44."""

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
from weights.cache.store import Room, Store, default_folder

KEY, OTHER, THIRD = "a" * 64, "b" * 64, "c" * 64


def a_store(tmp_path, **changes):
    return Store(tmp_path / "cache", Room(**{"spare_bytes": 0, **changes}))


def put(store, key, content=b"content", *, by="", etag='"1"'):
    with store.locked(key) as entry:
        entry.part.write_bytes(content)
        entry.keep(hashlib.sha256(content).hexdigest(), len(content), etag, by=by)


def get(store, key):
    with store.locked(key) as entry:
        held = entry.held()
        if held is None:
            return None
        with entry.open(held) as file:
            return file.read()


def contents(store):
    return sorted(path.name for path in store.folder.iterdir() if path.suffix != ".lock")


def used(store, key, when):
    os.utime(store.folder / f"{key}.json", (when, when))


def test_what_was_kept_is_there_in_another_store_of_the_same_folder(tmp_path):
    put(a_store(tmp_path), KEY)
    assert get(a_store(tmp_path), KEY) == b"content"
    assert get(a_store(tmp_path), OTHER) is None


def test_the_folder_is_its_owners_alone(tmp_path):
    put(a_store(tmp_path), KEY)
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700


def test_a_part_that_was_not_kept_goes(tmp_path):
    store = a_store(tmp_path)
    with pytest.raises(RuntimeError), store.locked(KEY) as entry:
        entry.part.write_bytes(b"half")
        raise RuntimeError
    assert contents(store) == []


def test_a_newer_file_replaces_the_older_one_and_its_visitors(tmp_path):
    store = a_store(tmp_path)
    put(store, KEY, b"old", by="x")
    put(store, KEY, b"new", by="y")
    assert get(store, KEY) == b"new"
    assert len(contents(store)) == 2
    assert list(read_manifest(store.folder / f"{KEY}.json").visitors) == ["y"]


def test_what_is_shown_to_everybody_is_open_to_all_and_the_rest_to_those_let_in(tmp_path):
    """C2 of the peers' bugs: one person's private LoRA must not be served to another."""
    store = a_store(tmp_path)
    put(store, KEY, by="x")
    put(store, OTHER, by="")
    with store.locked(KEY) as entry:
        assert entry.has_access("x", entry.held())
        assert not entry.has_access("y", entry.held())
        assert not entry.has_access("", entry.held())
        entry.grant_access("y", entry.held())
        assert entry.has_access("y", entry.held())
        assert entry.has_access("x", entry.held())
    with store.locked(OTHER) as entry:
        assert entry.has_access("x", entry.held())


def test_who_was_let_in_is_asked_for_again_after_a_while(tmp_path):
    """C43."""
    store = a_store(tmp_path, fresh_seconds=0.2)
    put(store, KEY)
    with store.locked(KEY) as entry:
        assert entry.has_access("", entry.held())
        time.sleep(0.25)
        assert not entry.has_access("", entry.held())


def test_what_was_not_used_for_longest_goes_first(tmp_path):
    store = a_store(tmp_path, most_bytes=25)
    for when, key in enumerate((KEY, OTHER, THIRD)):
        put(store, key, key[:1].encode() * 8)
        used(store, key, when)
    get(store, KEY)
    store.make_room(8)
    assert get(store, KEY)
    assert get(store, OTHER) is None
    assert get(store, THIRD)


def test_what_fits_drives_nothing_out(tmp_path):
    store = a_store(tmp_path, most_bytes=100)
    put(store, KEY)
    store.make_room(90)
    assert get(store, KEY)


def test_what_is_being_handled_never_goes(tmp_path):
    """C41."""
    store = a_store(tmp_path, most_bytes=1)
    put(store, KEY)
    put(store, OTHER)
    with store.locked(KEY) as entry:
        store.make_room(100)
        assert entry.held()
    assert get(store, OTHER) is None


def test_the_key_that_needs_the_room_keeps_what_it_has(tmp_path):
    store = a_store(tmp_path, most_bytes=1)
    put(store, KEY)
    with store.locked(KEY) as entry:
        store.make_room(100)
        assert entry.held()


def test_an_open_file_stays_readable_when_it_goes(tmp_path):
    """C41."""
    store = a_store(tmp_path, most_bytes=1)
    put(store, KEY)
    with store.locked(KEY) as entry:
        file = entry.open(entry.held())
    store.make_room(100)
    assert get(store, KEY) is None
    with file:
        assert file.read() == b"content"


def test_a_disk_without_room_is_told_after_everything_went(tmp_path):
    """C41."""
    store = a_store(tmp_path, spare_bytes=2**60)
    put(store, KEY)
    with pytest.raises(OSError, match="does not fit on the disk"):
        store.make_room(1)
    assert get(store, KEY) is None


def test_what_a_killed_process_left_goes_when_room_is_needed(tmp_path):
    store = a_store(tmp_path, most_bytes=10)
    put(store, KEY, b"12345678")
    (store.folder / f"{OTHER}.part").write_bytes(bytes(100))
    (store.folder / f"{THIRD}-0123456789abcdef.bin").write_bytes(bytes(100))
    store.make_room(1)
    assert get(store, KEY)
    assert len(contents(store)) == 2


def test_files_of_others_in_the_folder_are_left_alone(tmp_path):
    store = a_store(tmp_path, most_bytes=1)
    put(store, KEY)
    (store.folder / "notes.txt").write_text("mine")
    (store.folder / "mine.bin").write_text("mine")
    store.make_room(100)
    assert contents(store) == ["mine.bin", "notes.txt"]


@pytest.mark.parametrize("manifest", [b"", b"{", b"[]", b"{}", b'{"sha256": 1, "size": "x"}', b"\xff", None])
def test_a_damaged_manifest_is_none(tmp_path, manifest):
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
def test_a_file_that_is_not_whole_is_not_there(tmp_path, content):
    store = a_store(tmp_path)
    put(store, KEY)
    (path,) = store.folder.glob("*.bin")
    path.unlink() if content is None else path.write_bytes(content)
    assert get(store, KEY) is None


def test_a_manifest_holds_digests_and_times_only(tmp_path):
    store = a_store(tmp_path)
    put(store, KEY)
    assert set(json.loads((store.folder / f"{KEY}.json").read_text())) == {"sha256", "size", "etag", "visitors"}


def test_only_one_handles_a_key_at_a_time(tmp_path):
    """C40."""
    store, inside, most = a_store(tmp_path), [], []

    def handle(_):
        with store.locked(KEY):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.01)
            inside.pop()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(handle, range(8)))
    assert max(most) == 1


def test_many_references_leave_few_locks(tmp_path):
    store = a_store(tmp_path)
    for index in range(50):
        with store.locked(f"abc{index:061d}"):
            pass
    assert [path.name for path in store.folder.iterdir()] == ["abc.lock"]


def test_a_miss_goes_when_it_is_old_and_a_file_stays(tmp_path):
    """Who guesses names leaves no file for each."""
    store = a_store(tmp_path, fresh_seconds=60)
    put(store, OTHER)
    for key in (KEY, THIRD):
        with store.locked(key) as entry:
            entry.miss("")
    used(store, KEY, 0)
    used(store, OTHER, 0)
    with store.locked("d" * 64) as entry:
        entry.miss("")
    assert not (store.folder / f"{KEY}.json").exists()
    assert (store.folder / f"{THIRD}.json").exists()
    assert get(store, OTHER) == b"content"


KEEPING = """
import hashlib, sys
from pathlib import Path
from weights.cache.store import Room, Store
store = Store(Path(sys.argv[1]), Room(most_bytes=3_000_000, spare_bytes=0))
print("ready", flush=True)
for number in range(100_000):
    key = str(number % 3) * 64
    content = bytes([number % 256]) * 1_000_000
    with store.locked(key) as entry:
        store.make_room(len(content))
        with entry.part.open("wb") as file:
            for start in range(0, len(content), 100_000):
                file.write(content[start : start + 100_000])
        entry.keep(hashlib.sha256(content).hexdigest(), len(content), "", by="")
"""


def test_a_kill_at_any_moment_leaves_every_file_whole_or_not_there(tmp_path):
    store = Store(tmp_path, Room(most_bytes=3_000_000, spare_bytes=0))
    for after in (0.0, 0.003, 0.01, 0.017, 0.03, 0.05, 0.08):
        keeping = subprocess.Popen([sys.executable, "-c", KEEPING, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE)
        keeping.stdout.readline()
        time.sleep(after)
        keeping.send_signal(signal.SIGKILL)
        keeping.wait()
        keeping.stdout.close()
        for key in (digit * 64 for digit in "012"):
            with store.locked(key) as entry:
                held = entry.held()
                if held:
                    assert hashlib.sha256(entry.open(held).read()).hexdigest() == held.sha256


def test_the_usual_folder_is_where_the_system_says(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "flux-lora-downloads"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_folder().parts[-2:] == (".cache", "flux-lora-downloads")


def test_the_usual_folder_is_not_that_of_encoded_images(monkeypatch):
    """Which sweeps away what it does not know."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    images = Path(DEFAULT_FOLDER).expanduser()
    assert images not in [default_folder(), *default_folder().parents]
