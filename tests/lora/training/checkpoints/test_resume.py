"""Resuming: untrusted files are read safely, and no run that could be resumed is lost."""

import io
import os
import tarfile
import time

import pytest
import torch
from safetensors.torch import save

from lora.training.checkpoints.files import packed
from lora.training.checkpoints.identity import folder_name
from lora.training.checkpoints.resume import (
    LAST,
    RUNS_KEPT,
    InitialState,
    ResumeSource,
    find_initial_state,
    find_resume_source,
    newest_checkpoint,
    open_store,
)
from lora.training.checkpoints.store import BEST, CheckpointStore, best_beside
from tests.lora.training.trainers import a_log
from tests.tiny import assert_one_sentence, random_lora, tiny_transformer, write
from weights.local_files import ReadableFolders
from weights.references import read_lora

IDENTITY = {"base_model": "tiny", "lora_rank": 4, "resolutions": [64]}
FOLDER = "output/flux_train_replicate"
NOTHING = InitialState(None, None)
LONG_AGO = 30 * 24 * 3600


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """The folder for the checkpoints of trainings."""
    monkeypatch.setenv("FLUX_LORA_CHECKPOINTS", str(tmp_path / "checkpoints"))
    return tmp_path / "checkpoints"


def tensors(number):
    return {"lora": {"a": torch.full((3,), float(number))}}


def saved(folder, *steps, identity=IDENTITY):
    """A store with checkpoints of these steps."""
    store = CheckpointStore(folder, identity, report_damage=print)
    for step in steps:
        store.save(step, tensors(step), {"step": step})
    return store


def a_run(root, name, *steps, identity=IDENTITY, age=0.0):
    """The folder of a run by an earlier process."""
    run = saved(root / folder_name(identity) / name, *steps, identity=identity).folder
    make_old(run, age)
    return run


def make_old(run, age):
    then = time.time() - age
    os.utime(run, (then, then))


def a_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def members_of(checkpoint, folder=LAST, *, before=FOLDER):
    return {f"{before}/{name}": path.read_bytes() for name, path in packed(checkpoint, folder=folder)}


def source_of(given, tmp_path):
    readable = ReadableFolders.of_deployment()
    return find_resume_source(str(given), into=tmp_path / "resume", read_lora=read_lora, readable=readable)


def refusal(given, tmp_path):
    with pytest.raises(ValueError) as error:
        source_of(given, tmp_path)
    assert_one_sentence(error.value)
    return str(error.value)


# The value of resume_from


def test_without_resume_from_a_training_starts_with_a_new_lora(tmp_path):
    resume_source = source_of("", tmp_path)
    assert resume_source == ResumeSource()
    assert find_initial_state(resume_source, IDENTITY, steps=1000, log=a_log()) == NOTHING


def test_the_folder_of_a_checkpoint_is_read_as_a_checkpoint(tmp_path):
    saved(tmp_path / "run", 3, 5)
    assert source_of(tmp_path / "run/step-000003", tmp_path).checkpoint.step == 3


def test_a_folder_of_several_checkpoints_is_refused(tmp_path):
    saved(tmp_path / "run", 3)
    assert refusal(tmp_path / "run", tmp_path) == (
        "resume_from is the folder 'run' without manifest.json: expected the folder of a checkpoint"
    )


def test_a_damaged_checkpoint_is_refused(tmp_path):
    saved(tmp_path / "run", 3)
    file = tmp_path / "run/step-000003/lora.tensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert "lora.tensors has" in refusal(tmp_path / "run/step-000003", tmp_path)


def test_a_tar_with_a_resume_state_holds_the_last_and_the_best_checkpoint(tmp_path):
    store = saved(tmp_path / "run", 7)
    store.save_best(5, tensors(5), {"mean": 0.5})
    members = members_of(store.newest()) | members_of(store.best(), BEST) | {f"{FOLDER}/lora.safetensors": b"more"}
    checkpoint = source_of(a_tar(tmp_path / "trained_model.tar", members), tmp_path).checkpoint
    assert (checkpoint.step, checkpoint.values, checkpoint.identity) == (7, {"step": 7}, IDENTITY)
    assert torch.equal(checkpoint.tensors("lora")["a"], torch.full((3,), 7.0))
    assert best_beside(checkpoint).step == 5


def test_a_tar_with_a_damaged_state_is_refused_and_not_taken_for_a_lora(tmp_path):
    members = members_of(saved(tmp_path / "run", 7).newest())
    name = f"{FOLDER}/resume/last/lora.tensors"
    tar = a_tar(tmp_path / "a.tar", members | {name: members[name][:-8] + b"12345678"})
    assert "does not match the sha256" in refusal(tar, tmp_path)


@pytest.mark.parametrize("kind", ["tar", "safetensors"])
def test_a_lora_is_a_warm_start(tmp_path, kind):
    """A tar without a resume state is read as the LoRA in it."""
    expected = random_lora(tiny_transformer())
    content = save(expected)
    path = write(tmp_path / "lora.safetensors", content)
    if kind == "tar":
        path = a_tar(tmp_path / "trained_model.tar", {f"{FOLDER}/lora.safetensors": content, f"{FOLDER}/a.txt": b"a"})
    resume_source = source_of(path, tmp_path)
    assert resume_source.checkpoint is None
    assert resume_source.lora.keys() == expected.keys()
    assert find_initial_state(resume_source, IDENTITY, steps=1000, log=a_log()).lora is resume_source.lora


def test_a_missing_path_is_refused(tmp_path):
    assert refusal(tmp_path / "nothing.tar", tmp_path).startswith("resume_from ")


def test_a_path_that_is_too_long_for_a_file_raises_no_os_error(tmp_path):
    message = refusal("x" * 300, tmp_path)
    assert message.startswith("resume_from '...xxx")
    assert "is not a reference to a LoRA" in message


def test_a_compressed_tar_is_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w:gz") as tar:
        tar.add(write(tmp_path / "a.txt", b"a"), "a.txt")
    assert "a damaged or compressed tar" in refusal(tmp_path / "a.tar", tmp_path)


def test_a_truncated_tar_is_refused(tmp_path):
    tar = a_tar(tmp_path / "a.tar", members_of(saved(tmp_path / "run", 7).newest()))
    tar.write_bytes(tar.read_bytes()[:1200])
    assert "lora.tensors cannot be read" in refusal(tar, tmp_path)


HOSTILE = {
    "up and out": "../../../resume/last/../../../../outside.tensors",
    "an absolute path": "/tmp/resume/last/../../outside.tensors",
    "a folder's name": "resume/last/..",
    "a name too long for a file": f"resume/last/{'x' * 300}.tensors",
    "a name of no checkpoint's file": "resume/last/train.py",
    "a deeper folder": "resume/last/deep/lora.tensors",
    "another folder": "resume/other/lora.tensors",
}


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_member_names_are_not_extracted(tmp_path, name):
    """Case B: a tar may be untrusted; only the files of a checkpoint are copied, under fixed names."""
    members = members_of(saved(tmp_path / "run", 7).newest())
    before = set(tmp_path.rglob("*"))
    assert source_of(a_tar(tmp_path / "a.tar", members | {name: b"hostile"}), tmp_path).checkpoint.step == 7
    made = {path.relative_to(tmp_path).as_posix() for path in {*tmp_path.rglob("*")} - before if path.is_file()}
    assert made == {"a.tar", *(f"resume/last/{path.rsplit('/', 1)[1]}" for path in members)}


def test_a_link_in_a_tar_is_not_followed(tmp_path):
    secret, members = write(tmp_path / "secret", b"a secret"), members_of(saved(tmp_path / "run", 7).newest())
    a_tar(tmp_path / "a.tar", members)
    with tarfile.open(tmp_path / "a.tar", "a") as tar:
        link = tarfile.TarInfo(f"{FOLDER}/resume/last/lora.tensors")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        tar.addfile(link)
    assert source_of(tmp_path / "a.tar", tmp_path).checkpoint.step == 7
    assert not any(path.is_symlink() for path in (tmp_path / "resume").rglob("*"))


# The training that a checkpoint belongs to


def test_a_checkpoint_of_this_training_is_resumed_and_logged(tmp_path, capsys):
    saved(tmp_path / "run", 3)
    resume_source = source_of(tmp_path / "run/step-000003", tmp_path)
    assert find_initial_state(resume_source, IDENTITY, steps=1000, log=a_log()).checkpoint.step == 3
    assert capsys.readouterr().out == f"resuming from step 3 in {tmp_path / 'run/step-000003'}\n"


def test_a_checkpoint_of_another_training_is_refused_with_the_field_that_differs(tmp_path):
    """Case B43."""
    saved(tmp_path / "run", 3)
    resume_source = source_of(tmp_path / "run/step-000003", tmp_path)
    with pytest.raises(ValueError) as error:
        find_initial_state(resume_source, IDENTITY | {"lora_rank": 8}, steps=1000, log=a_log())
    assert_one_sentence(error.value)
    assert str(error.value) == "resume_from is from a training with lora_rank 4: expected 8, as in this training"


def test_a_checkpoint_past_the_last_step_is_refused(tmp_path):
    saved(tmp_path / "run", 3)
    with pytest.raises(ValueError) as error:
        find_initial_state(source_of(tmp_path / "run/step-000003", tmp_path), IDENTITY, steps=2, log=a_log())
    assert str(error.value) == "resume_from is at step 3: expected at most the 2 steps of this training"


def test_latest_is_the_highest_step_of_all_runs_of_this_training(root, capsys):
    a_run(root, "first", 3, 9)
    a_run(root, "second", 2)
    a_run(root, "third", 20, identity=IDENTITY | {"lora_rank": 8})
    resume_source = source_of("latest", root)
    checkpoint = find_initial_state(resume_source, IDENTITY, steps=1000, log=a_log()).checkpoint
    assert (checkpoint.step, checkpoint.folder.parent.name) == (9, "first")
    assert "resuming from step 9" in capsys.readouterr().out


def test_without_a_checkpoint_latest_starts_at_the_first_step_and_logs_that(capsys):
    assert find_initial_state(ResumeSource(is_latest=True), IDENTITY, steps=1000, log=a_log()) == NOTHING
    assert "has no checkpoint yet, so it starts from step 0" in capsys.readouterr().out


def damage(run):
    for file in run.glob("*/lora.tensors"):
        file.write_bytes(b"damaged")


def test_latest_skips_damaged_checkpoints_and_reports_them(root, capsys):
    damage(a_run(root, "second", 9))
    a_run(root, "first", 3)
    assert newest_checkpoint(IDENTITY, a_log()).step == 3
    assert "lora.tensors has 7 bytes" in capsys.readouterr().out


def test_latest_is_refused_if_all_checkpoints_are_damaged(root):
    damage(a_run(root, "first", 3))
    with pytest.raises(ValueError, match="all checkpoints of this training are damaged") as error:
        find_initial_state(ResumeSource(is_latest=True), IDENTITY, steps=1000, log=a_log())
    assert_one_sentence(error.value, "resume_from latest")


# Folders


def test_each_run_has_its_own_folder_that_only_its_owner_can_read(root):
    store = open_store(IDENTITY, NOTHING, a_log())
    assert store.folder.parent.parent == root
    assert store.folder.stat().st_mode & 0o777 == 0o700
    other = open_store(IDENTITY | {"lora_rank": 8}, NOTHING, a_log())
    assert other.folder.parent != store.folder.parent


def test_a_folder_that_cannot_be_created_is_named_with_the_variable_that_sets_it(root):
    root.write_text("a file")
    with pytest.raises(ValueError) as error:
        open_store(IDENTITY, NOTHING, a_log())
    assert_one_sentence(error.value, str(root), "FLUX_LORA_CHECKPOINTS")


def test_old_runs_are_deleted_except_for_recent_ones_and_the_latest(root):
    runs = [a_run(root, f"run-{number:02}", 1, age=LONG_AGO - number) for number in range(RUNS_KEPT + 4)]
    recent = a_run(root, "recent", 1, age=60)
    open_store(IDENTITY, NOTHING, a_log())
    assert {run.name for run in [*runs, recent] if run.exists()} == {
        "recent",
        *(f"run-{number:02}" for number in range(5, RUNS_KEPT + 4)),
    }


def test_recent_runs_are_never_deleted(root):
    """Another process may be using each of them."""
    runs = [a_run(root, f"run-{number:02}", 1) for number in range(20)]
    open_store(IDENTITY, NOTHING, a_log())
    assert all(run.exists() for run in runs)


def test_the_run_from_which_a_training_resumes_is_never_deleted(root):
    a_run(root, "old", 900, age=2 * LONG_AGO)
    newer = [a_run(root, f"run-{number:02}", 1, age=LONG_AGO) for number in range(RUNS_KEPT + 4)]
    initial_state = find_initial_state(ResumeSource(is_latest=True), IDENTITY, steps=1000, log=a_log())
    open_store(IDENTITY, initial_state, a_log())
    assert initial_state.checkpoint.tensors("lora")["a"][0] == 900
    assert sum(run.exists() for run in newer) == RUNS_KEPT, "the old runs were really deleted"


def test_folders_of_trainings_without_runs_are_deleted(root):
    runs = [a_run(root, "only", 1, identity=IDENTITY | {"seed": seed}, age=LONG_AGO) for seed in range(20)]
    open_store(IDENTITY, NOTHING, a_log())
    assert sum(run.parent.exists() for run in runs) == RUNS_KEPT
