"""Whatever happens to a process that saves, the newest checkpoint is valid."""

import errno
import os
import random
import resource
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from lora.training.checkpoints.files import read_checkpoint
from lora.training.checkpoints.store import CheckpointStore, best_beside
from tests.lora.training.saved import IDENTITY, assert_saved_at, contents, make_old, names, save, store_in
from tests.tiny import assert_one_sentence
from tests.warm_process import FORKING

pytestmark = pytest.mark.xdist_group("warm")


def test_a_saved_checkpoint_is_found_by_a_new_store(tmp_path):
    save(store_in(tmp_path), 250)
    checkpoint = store_in(tmp_path).newest()
    assert_saved_at(checkpoint, 250)
    assert checkpoint.identity == {"base": "tiny", "lora_rank": 16, "resolutions": [512, 768]}
    assert checkpoint.folder == tmp_path / "step-000250"
    assert sorted(checkpoint.names) == ["lora", "optimizer"]


def test_an_empty_folder_holds_no_checkpoint(tmp_path):
    store = store_in(tmp_path / "new" / "folder")
    assert store.newest() is None
    assert store.best() is None


def test_shared_and_strided_tensors_are_saved_unchanged(tmp_path):
    shared = torch.arange(12.0).reshape(3, 4)
    parameter = torch.nn.Parameter(torch.ones(2))
    group = {"a": shared, "b": shared, "c": shared.T, "d": shared[:, 1], "e": torch.tensor(3), "f": parameter}
    store = store_in(tmp_path)
    store.save(1, {"lora": group, "none": {}}, {})
    found = store.newest().tensors("lora")
    assert found.keys() == group.keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in group.items())
    assert store.newest().tensors("none") == {}


def test_no_file_is_taken_for_the_lora_of_the_tar(tmp_path):
    """Clients take the one .safetensors of a tar for the LoRA."""
    save(store_in(tmp_path), 1)
    assert names(tmp_path / "step-000001") == ["lora.tensors", "manifest.json", "optimizer.tensors", "state.json"]


def test_the_newest_two_are_kept(tmp_path):
    store = store_in(tmp_path)
    save(store, 250, 500, 750, 1000)
    assert names(tmp_path) == ["step-000750", "step-001000"]


def test_keep_only_newest_also_keeps_the_best(tmp_path):
    store = store_in(tmp_path)
    for step in (250, 500):
        save(store, step)
    store.save_best(250, {}, {})
    store.keep_only_newest()
    assert_saved_at(store.newest(), 500)
    assert store.best().step == 250
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "step-000500"]


def test_known_damaged_checkpoints_do_not_count_as_kept(tmp_path):
    reports = []
    store = store_in(tmp_path, reports=reports)
    save(store, 250, 500)
    (tmp_path / "step-000500/lora.tensors").write_bytes(b"")
    assert_saved_at(store.newest(), 250)
    save(store, 600)
    assert names(tmp_path) == ["step-000250", "step-000600"]


def test_a_training_that_resumes_before_a_damaged_checkpoint_keeps_its_own_checkpoints(tmp_path):
    reports = []
    store = store_in(tmp_path, reports=reports)
    save(store, 750, 1000)
    (tmp_path / "step-001000/lora.tensors").write_bytes(b"")
    store = store_in(tmp_path, reports=reports)
    assert_saved_at(store.newest(), 750)
    save(store, 900)
    assert_saved_at(store.newest(), 900)
    assert_saved_at(read_checkpoint(tmp_path / "step-000750"), 750)


def test_steps_are_compared_as_numbers(tmp_path):
    store = store_in(tmp_path)
    save(store, 999_999, 1_000_000)
    assert_saved_at(store.newest(), 1_000_000)


def test_saving_a_step_again_replaces_it(tmp_path):
    store = store_in(tmp_path)
    save(store, 250)
    store.save(250, contents(3), {"second": True})
    assert store.newest().values == {"second": True}
    assert names(tmp_path) == ["step-000250"]


def test_a_kill_between_the_two_renames_of_a_replacement_leaves_the_old_checkpoint(tmp_path):
    """The old folder has been renamed, and the new one does not have its name yet."""
    save(store_in(tmp_path), 250)
    store_in(tmp_path).save_best(250, contents(250), {"step": 250, "losses": [0.1, 250.0]})
    (tmp_path / "step-000250").rename(tmp_path / "step-000250.old-1234abcd")
    (tmp_path / "best").rename(tmp_path / "best.old-1234abcd")
    store = store_in(tmp_path)
    assert_saved_at(store.newest(), 250)
    assert_saved_at(store.best(), 250)
    assert_saved_at(best_beside(store.newest()), 250)
    save(store, 250)
    store_in(tmp_path).save_best(1, contents(1), {})
    store_in(tmp_path)
    assert names(tmp_path) == ["best", "step-000250"]


def test_the_best_stays_until_another_best_is_saved(tmp_path):
    store = store_in(tmp_path)
    store.save_best(250, contents(250), {"step": 250, "losses": [0.1, 250.0]})
    save(store, 250, 500, 750, 1000)
    assert_saved_at(store_in(tmp_path).best(), 250)
    assert_saved_at(store_in(tmp_path).newest(), 1000)
    store.save_best(1000, contents(1000), {"step": 1000, "losses": [0.1, 1000.0]})
    assert_saved_at(store.best(), 1000)
    assert names(tmp_path) == ["best", "step-000750", "step-001000"]


def flip_last_byte(folder):
    path = folder / "lora.tensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "truncated": (lambda folder: os.truncate(folder / "lora.tensors", 100), "lora.tensors has 100 bytes, expected"),
    "bad hash": (flip_last_byte, "lora.tensors does not match the sha256"),
    "missing file": (lambda folder: (folder / "optimizer.tensors").unlink(), "optimizer.tensors cannot be read"),
    "state of other length": (lambda folder: (folder / "state.json").write_text("{}"), "state.json has 2 bytes"),
    "manifest cut": (lambda folder: os.truncate(folder / "manifest.json", 50), "manifest.json is not a JSON object"),
    "manifest empty": (lambda folder: os.truncate(folder / "manifest.json", 0), "manifest.json is not a JSON object"),
    "a folder for a file": (
        lambda folder: (shutil.move(folder / "state.json", folder / "x"), (folder / "state.json").mkdir()),
        "state.json is not a regular file",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_checkpoint_is_skipped_for_the_one_before(tmp_path, damage):
    """Case B42."""
    do, message = DAMAGES[damage]
    save(store_in(tmp_path), 250, 500)
    do(tmp_path / "step-000500")
    reports = []
    assert_saved_at(store_in(tmp_path, reports=reports).newest(), 250)
    (report,) = reports
    assert_one_sentence(report, "checkpoint 'step-000500'", message)


def test_a_folder_without_manifest_does_not_count(tmp_path):
    """Case B42."""
    save(store_in(tmp_path), 250, 500)
    (tmp_path / "step-000500/manifest.json").unlink()
    (tmp_path / "step-000750").mkdir()
    assert_saved_at(store_in(tmp_path).newest(), 250)


def test_if_all_checkpoints_are_damaged_there_is_none_and_each_is_reported(tmp_path):
    save(store_in(tmp_path), 250, 500)
    for name in ("step-000250", "step-000500"):
        flip_last_byte(tmp_path / name)
    reports = []
    assert store_in(tmp_path, reports=reports).newest() is None
    assert len(reports) == 2


def test_files_and_folders_are_synced_before_a_checkpoint_gets_its_name(tmp_path, monkeypatch):
    """So a checkpoint with that name is valid even after a power failure."""
    events, fsync, rename = [], os.fsync, os.rename

    def recorded_fsync(descriptor):
        events.append(Path(f"/proc/self/fd/{descriptor}").readlink().name.split(".tmp-")[0])
        fsync(descriptor)

    def recorded_rename(source, target):
        rename(source, target)
        events.append("rename")

    store = store_in(tmp_path)
    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "rename", recorded_rename)
    save(store, 250)
    folder = "step-000250"
    assert sorted(events[:3]) == ["lora.tensors", "optimizer.tensors", "state.json"]
    assert events[3:] == [folder, "manifest.json", folder, "rename", tmp_path.name]


def save_until_killed(folder, first, pipe):
    """In a child process: save step after step, some of them twice, and send the number of each saved step."""
    store = CheckpointStore(folder, IDENTITY, report_damage=pipe.send)
    for step in range(first, first + 10_000):
        for _ in range(1 + step % 2):
            save(store, step)
        store.save_best(step, contents(step), {"step": step, "losses": [0.1, float(step)]})
        pipe.send(step)


def last_reported_step(pipe):
    """The last step that a child process sent; it sends nothing but steps."""
    step = None
    try:
        while pipe.poll():
            step = pipe.recv()
            assert isinstance(step, int), step
    except EOFError:
        pass
    return step


def test_a_kill_at_any_moment_leaves_a_valid_newest_checkpoint(tmp_path):
    """Case B40: 20 processes save one after the other in one folder, and are killed at random moments."""
    moments, reached = random.Random(0), 0
    for _ in range(20):
        ours, theirs = FORKING.Pipe()
        child = FORKING.Process(target=save_until_killed, args=(tmp_path, reached + 1, theirs))
        child.start()
        theirs.close()
        first = ours.recv()
        time.sleep(moments.uniform(0, 0.05))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        reported = last_reported_step(ours) or first
        store = store_in(tmp_path)
        newest, best = store.newest(), store.best()
        assert_saved_at(newest, newest.step)
        assert_saved_at(best, best.step)
        assert reported <= best.step <= newest.step <= reported + 1
        reached = newest.step
    for path in tmp_path.iterdir():
        make_old(path)
    store = store_in(tmp_path)
    store.save_best(reached, contents(reached), {})  # the last kill may have interrupted the replacement of this
    save(store, reached, reached + 1)  # or of this
    assert names(tmp_path) == ["best", f"step-{reached:06d}", f"step-{reached + 1:06d}"]


def save_under_a_limit(folder, limit, pipe):
    """In a child process: save with a limit on the size of files, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    store = CheckpointStore(folder, IDENTITY, report_damage=pipe.send)
    try:
        store.save(500, contents(500, count=100_000), {"long": "x" * 50_000})
    except OSError as error:
        pipe.send((type(error).__name__, str(error)))
    pipe.send("done")


@pytest.mark.parametrize("limit", [1_000, 60_000, 300_000])
def test_a_full_disk_leaves_the_older_checkpoint_and_no_partial_files(tmp_path, limit):
    """Case B21; the limits interrupt the manifest, state.json and the tensors, in this order where possible."""
    save(store_in(tmp_path), 250)
    ours, theirs = FORKING.Pipe()
    child = FORKING.Process(target=save_under_a_limit, args=(tmp_path, limit, theirs))
    child.start()
    kind, message = ours.recv()
    assert ours.recv() == "done"
    child.join()
    assert kind == "OSError"
    assert_one_sentence(message)
    assert names(tmp_path) == ["step-000250"]
    assert_saved_at(store_in(tmp_path).newest(), 250)


def test_a_failed_replacement_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    store = store_in(tmp_path)
    save(store, 250)

    def broken_rename(source, target):
        if ".tmp-" in Path(source).name:
            raise OSError(errno.EIO, "Input/output error")
        real_rename(source, target)

    real_rename = os.rename
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", broken_rename)
        with pytest.raises(OSError, match="Input/output"):
            store.save(250, contents(1), {})
    assert_saved_at(store_in(tmp_path).newest(), 250)


def test_a_failed_save_leaves_no_files(tmp_path):
    store = store_in(tmp_path)
    save(store, 250)
    with pytest.raises(TypeError):
        store.save(500, contents(500), {"tensor": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"a group of tensors is named '\.\./x'"):
        store.save(500, {"../x": {}}, {})
    assert names(tmp_path) == ["step-000250"]


def save_slowly(folder, pipe):
    """In a child process: pause in the middle of a save."""
    store = CheckpointStore(folder, IDENTITY, report_damage=pipe.send)

    def values():
        pipe.send(names(folder))
        pipe.recv()
        return 1.0

    class Slow(dict):
        def items(self):
            yield "a", torch.tensor(values())

    store.save(500, {"lora": Slow()}, {})
    pipe.send("saved")


def test_only_the_unfinished_folders_of_dead_processes_are_deleted(tmp_path):
    (tmp_path / "step-000250.tmp-dead").mkdir()
    (tmp_path / "step-000250.tmp-dead/lora.tensors").write_bytes(b"half")
    make_old(tmp_path / "step-000250.tmp-dead")
    (tmp_path / "mine.tmp-notes").mkdir()
    make_old(tmp_path / "mine.tmp-notes", seconds=7200)
    ours, theirs = FORKING.Pipe()
    child = FORKING.Process(target=save_slowly, args=(tmp_path, theirs))
    child.start()
    _, unfinished = sorted(ours.recv())
    make_old(tmp_path / unfinished)
    store_in(tmp_path)
    assert names(tmp_path) == ["mine.tmp-notes", unfinished]
    ours.send("go on")
    assert ours.recv() == "saved"
    child.join()
    assert names(tmp_path) == ["mine.tmp-notes", "step-000500"]


def test_only_the_owner_can_read_a_checkpoint(tmp_path):
    save(store_in(tmp_path / "folder"), 1)
    assert (tmp_path / "folder").stat().st_mode & 0o077 == 0
    assert (tmp_path / "folder/step-000001").stat().st_mode & 0o077 == 0
