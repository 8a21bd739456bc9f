"""start.sh trains and then stops the pod, failing or not; with stand-ins for script/train and RunPod's own command."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from script.cog_server import ROOT
from tests.servers import wait_until

TRAIN = """#!/bin/sh
[ -z "$ONE_A_LINE" ] || printf '%s\\n' "$@"
echo "train $*"
trap 'echo saved; echo early >"$OUTPUT"; exit 75' TERM
[ -z "$SLOW" ] || { touch "$SLOW"; while true; do sleep 0.05; done; }
exit ${CODE:-0}
"""
RUNPODCTL = '#!/bin/sh\necho "runpodctl $*"\n[ -z "$REFUSES" ] || [ "$1" != "$REFUSES" ]\n'


@pytest.fixture
def pod(tmp_path):
    """A pod with the project; a function runs start.sh in it and returns its process."""
    for name, content in (("script/train", TRAIN), ("bin/runpodctl", RUNPODCTL)):
        path = tmp_path / name
        path.parent.mkdir()
        path.write_text(content)
        path.chmod(0o755)
    start = tmp_path / "deploy/runpod/start.sh"
    start.parent.mkdir(parents=True)
    shutil.copy(ROOT / "deploy/runpod/start.sh", start)
    own = {"OUTPUT": str(tmp_path / "mine.tar"), "RUNPOD_POD_ID": "pod1", "PATH": f"{tmp_path}/bin:{os.defpath}"}

    def run(*arguments, **environment):
        settings = {name: value for name, value in (own | environment).items() if value is not None}
        return subprocess.Popen(
            [start, *arguments], env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    return run


def ended(process):
    said, _ = process.communicate(timeout=60)
    return process.returncode, said.splitlines()


@pytest.mark.parametrize("code", [0, 1, 75])
def test_the_pod_is_stopped_at_the_end_of_the_training_failing_or_not(pod, tmp_path, code):
    returned, said = ended(pod("photos.zip", "--steps", "9", CODE=str(code)))
    assert returned == code
    assert said[0] == f"train photos.zip --steps 9 --output {tmp_path}/mine.tar --resume"
    assert said[-2:] == ["runpodctl stop pod pod1", "the pod pod1 stops"]
    assert (tmp_path / "mine.log").read_text().startswith("train photos.zip")


def test_the_flags_come_from_the_environment_of_the_pod(pod, tmp_path):
    _, said = ended(pod(DATASET="/my photos", TRIGGER_WORD="a b", TRAIN_FLAGS="--steps 9 --lora-rank 8"))
    assert (
        said[0] == f"train /my photos --trigger-word a b --steps 9 --lora-rank 8 --output {tmp_path}/mine.tar --resume"
    )


def test_quotes_in_the_flags_of_the_environment_keep_words_together_and_nothing_is_expanded(pod):
    flags = '--autocaption-prefix "a photo of"\n--layers \'.*attn\' --sample-prompts /* --caption-suffix "it\'s"'
    _, said = ended(pod(DATASET="x", TRAIN_FLAGS=flags, ONE_A_LINE="yes"))
    expected = ["x", "--autocaption-prefix", "a photo of", "--layers", ".*attn", "--sample-prompts", "/*"]
    assert said[: len(expected) + 2] == [*expected, "--caption-suffix", "it's"]


def test_newer_and_older_forms_of_runpods_command_are_tried(pod):
    _, said = ended(pod("x", REFUSES="stop"))
    assert said[-3:] == ["runpodctl stop pod pod1", "runpodctl pod stop pod1", "the pod pod1 stops"]


@pytest.mark.parametrize(
    ("environment", "last"),
    [
        ({"PATH": os.defpath}, "error: the pod pod1 could not be stopped, and still costs money"),
        ({"RUNPOD_POD_ID": None}, "this is no pod of RunPod (RUNPOD_POD_ID is not set): it is not stopped"),
    ],
)
def test_a_pod_that_is_not_stopped_is_said(pod, environment, last):
    assert ended(pod("x", **environment))[1][-1].startswith(last)


@pytest.mark.parametrize(
    ("environment", "code", "sentence"),
    [
        ({}, 2, "error: DATASET is not set: expected the path of an archive"),
        (
            {"DATASET": "x", "OUTPUT": "/nothing/mine.tar"},
            2,
            "error: /nothing/mine.log cannot be written: expected OUTPUT",
        ),
        ({"DATASET": "x", "OUTPUT": "/tmp"}, 2, "error: OUTPUT is the folder /tmp: expected the path of a tar"),
        ({"DATASET": "x", "TRAIN_FLAGS": "--layers 'a"}, 2, "error: TRAIN_FLAGS is --layers 'a: expected flags"),
        (
            {"DATASET": "x", "TRAIN_FLAGS": "--output=/tmp/x.tar"},
            2,
            "error: --output=/tmp/x.tar is given: expected the variable OUTPUT instead",
        ),
    ],
)
def test_a_wrong_setting_is_refused_and_the_pod_goes_on(pod, environment, code, sentence):
    returned, said = ended(pod(**environment))
    assert returned == code
    assert said[-1].startswith(sentence)
    assert not any("runpodctl" in line for line in said)


def test_a_pod_with_a_finished_training_can_be_started_again(pod, tmp_path):
    (tmp_path / "mine.tar").touch()
    assert ended(pod("x")) == (
        0,
        [f"{tmp_path}/mine.tar is there already: nothing is trained, and the pod is not stopped"],
    )


def test_a_pod_that_is_stopped_lets_the_training_save(pod, tmp_path):
    started = tmp_path / "started"
    process = pod("x", SLOW=str(started))
    wait_until(started.exists, seconds=60)
    process.send_signal(signal.SIGTERM)
    code, said = ended(process)
    assert code == 75
    assert "saved" in said
    assert Path(tmp_path / "mine.log").read_text().count("saved") == 1
    assert (tmp_path / "mine-interrupted.tar").read_text() == "early\n"
    assert ended(pod("x"))[1][0].startswith("train x "), "the next start goes on with the training"
