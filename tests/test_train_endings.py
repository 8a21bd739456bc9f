"""How script/train ends: its exit code and last line say whether all steps were done, and what can be continued."""

import os
import re
import signal
import tarfile
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lora.training.result.output import LORA_NAME
from tests.ai_toolkit_jobs import read, typed_job
from tests.servers import Tar, wait_until
from tests.tiny import linked_base, with_few_blocks, write
from tests.warm_process import IMAGES, SECONDS_TO_TRAIN, command, run_command, small_archive

pytestmark = pytest.mark.xdist_group("warm")

STEPS = 250  # more than a second of them, after which the first line comes
EARLY = re.compile(rf"wrote \S+ after (\d+) of {STEPS} steps; the same command with --resume does the rest")


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    return small_archive(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return with_few_blocks(linked_base(tmp_path_factory.mktemp("small") / "base"))


class Command:
    """A running script/train, whose output is in a folder."""

    def __init__(self, folder: Path, archive: Path, base: Path, *arguments: object) -> None:
        self.output, self._log = folder / "mine.tar", folder / "log"
        environment = {
            "FLUX_BASE": str(base),
            "FLUX_LORA_CHECKPOINTS": str(folder / "checkpoints"),
            "FLUX_LORA_CACHE": str(folder / "cache"),
        }
        small = ("--resolution", 64, "--lora-rank", 2, "--sample-prompts", "none", "--preservation", 0)
        self.process: BaseProcess = command(
            "script.train",
            archive,
            *small,
            "--output",
            self.output,
            *arguments,
            stdout=self._log,
            stderr=self._log,
            **environment,
        )

    @property
    def said(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def signalled(self, number: signal.Signals, *, after: str) -> int | None:
        """Send a signal once these words are in the output, and return the exit code."""
        wait_until(lambda: after in self.said or not self.process.is_alive(), seconds=SECONDS_TO_TRAIN)
        os.kill(self.process.pid, number)
        return self.exit_code()

    def exit_code(self) -> int | None:
        self.process.join(SECONDS_TO_TRAIN)
        return self.process.exitcode


def test_after_sigterm_the_lora_so_far_is_written_and_resuming_does_the_rest(tmp_path, archive, base):
    first = Command(tmp_path, archive, base, "--steps", STEPS)
    assert first.signalled(signal.SIGTERM, after="s/step") == 75, first.said
    done = int(EARLY.search(first.said)[1])
    assert 0 < done < STEPS
    with tarfile.open(first.output) as tar:
        assert LORA_NAME in tar.getnames()
    rest = Command(tmp_path, archive, base, "--steps", STEPS, "--resume")
    assert rest.exit_code() == 0, rest.said
    assert f"resuming from step {done}" in rest.said
    assert rest.said.splitlines()[-2] == f"wrote {rest.output}"


def test_a_closed_terminal_stops_the_training_after_the_step_and_saves(tmp_path, archive, base):
    stopped = Command(tmp_path, archive, base, "--steps", STEPS)
    assert stopped.signalled(signal.SIGHUP, after="s/step") == 75, stopped.said
    assert "SIGHUP came" in stopped.said
    assert list((tmp_path / "checkpoints").glob(f"*/*/step-{int(EARLY.search(stopped.said)[1]):06}/manifest.json"))


def test_ctrl_c_during_the_steps_names_the_step_that_is_saved(tmp_path, archive, base):
    stopped = Command(tmp_path, archive, base, "--steps", STEPS)
    assert stopped.signalled(signal.SIGINT, after="s/step") == 130, stopped.said
    last = stopped.said.splitlines()[-1]
    step = int(
        re.fullmatch(r"stopped; step (\d+) is saved: the same command with --resume continues from there", last)[1]
    )
    assert list((tmp_path / "checkpoints").glob(f"*/*/step-{step:06}/manifest.json"))
    assert not stopped.output.exists()


def test_ctrl_c_before_the_first_step_promises_no_checkpoint(tmp_path, archive, base):
    stopped = Command(tmp_path, archive, base, "--steps", STEPS)
    assert stopped.signalled(signal.SIGINT, after="checkpoints are saved to") == 130, stopped.said
    assert stopped.said.splitlines()[-1] == "stopped; no step was saved"


def test_an_error_after_some_steps_says_what_can_be_continued(tmp_path, archive, base):
    """The folder of the output is gone at the end, as if its disk were."""
    other = tmp_path / "mounted"
    other.mkdir()
    failed = Command(tmp_path, archive, base, "--steps", STEPS, "--output", other / "mine.tar")
    wait_until(lambda: "s/step" in failed.said, seconds=SECONDS_TO_TRAIN)
    other.rmdir()
    assert failed.exit_code() == 1, failed.said
    last = failed.said.splitlines()[-1]
    kept = re.fullmatch(r"error: cannot write \S+ \(No such file or directory\); the trained LoRA is in (\S+)", last)[1]
    with tarfile.open(kept) as tar:
        assert LORA_NAME in tar.getnames()


def test_a_training_with_every_tracker_gives_the_same_lora_and_its_records(tmp_path, archive, base, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    loras = []
    for name, flags in (("without", ()), ("with", ("--log", "tensorboard", "--log", "wandb", "--log", "trackio"))):
        (tmp_path / name).mkdir()
        trained = Command(tmp_path / name, archive, base, "--steps", 3, *flags)
        assert trained.exit_code() == 0, trained.said
        assert "the training goes on without it" not in trained.said
        loras.append(Tar(trained.output.read_bytes()).lora)
    assert loras[0] == loras[1]
    (own,) = (tmp_path / "with" / "mine-tensorboard").iterdir()
    events = EventAccumulator(str(own))
    events.Reload()
    assert [each.step for each in events.Scalars("loss")] == [1, 2, 3]
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert list((tmp_path / "trackio").glob("*.db"))


@pytest.mark.parametrize("found", ["mine.html", "mine.html/index.html"])
def test_a_page_or_folder_of_somebody_else_beside_the_tar_is_not_replaced(tmp_path, archive, base, found):
    (tmp_path / found).parent.mkdir(exist_ok=True)
    (tmp_path / found).write_text("<!doctype html>my own page")
    trained = Command(tmp_path, archive, base, "--steps", 1)
    assert trained.exit_code() == 0, trained.said
    assert (tmp_path / found).read_text() == "<!doctype html>my own page"
    assert trained.said.splitlines()[-1].startswith("the report page is report/index.html in the tar, as ")


def test_an_output_that_cannot_be_written_is_refused_before_anything_is_read(tmp_path, archive, base):
    refused = Command(tmp_path, archive, base, "--output", "/proc/mine.tar")
    assert refused.exit_code() == 1
    assert refused.said.startswith("error: --output is '/proc/mine.tar': expected a folder that can be written to")


def test_a_job_file_of_ai_toolkit_is_trained_and_the_settings_in_the_tar_train_the_same_again(
    tmp_path, base, monkeypatch
):
    """The images are those in the folder of the file, and the tar has the name of the job."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, content in IMAGES.items():
        write(photos / name, content)
    text = typed_job(photos).replace("a horse", "a square").replace("sample_steps: 12", "sample_steps: 1")
    file = write(tmp_path / "my_lora.yaml", text.replace("[ 64, 128 ]", "64").encode())
    monkeypatch.setenv("FLUX_BASE", str(base))
    run = run_command("script.train", "--config", file, "--steps", 2, FLUX_LORA_CACHE=str(tmp_path / "cache"))
    assert run.returncode == 0, run.stderr
    assert "config.process[0].train.lr " in run.stdout
    assert "which is set, takes its place" in run.stdout
    assert re.search(r"step 2/2 .* loss \d", run.stdout)
    tar = Tar((photos / "my_lora/my_lora.tar").read_bytes())
    settings = write(tmp_path / "config.yaml", tar.file("output/flux_train_replicate/config.yaml"))
    inputs = read(settings).inputs
    job = {name: value for name, value in read(file).inputs.items() if name not in ("input_images", "steps")}
    assert inputs.items() >= job.items()
    assert inputs["steps"] == 2
