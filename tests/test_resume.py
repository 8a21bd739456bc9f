"""Trainings that are killed and resumed, in separate processes, give the same LoRA as uninterrupted ones."""

import itertools
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lora.training.checkpoints.files import SUFFIX
from tests.families import KLEIN
from tests.servers import Tar, wait_until
from tests.tiny import base_with_few_prompts, encoded, linked_base, noisy_image, with_few_blocks, write, zipped
from tests.warm_process import IMAGES, SECONDS_TO_TRAIN, Trainer, Training, small_archive

pytestmark = pytest.mark.xdist_group("warm")

CHAINS, KILLS_IN_A_CHAIN = 3, 4
CONCURRENT_TRAININGS = 2  # as many as there are cores on the test machine
COMPLETE = f"*/*/step-{'[0-9]' * 6}"  # checkpoints in a folder, without those that are being written
SHORT = {
    "resolution": "64",
    "lora_rank": 2,
    "batch_size": 1,
    "learning_rate": 0.01,
    "checkpoint_every": 2,
    "sample_prompts": "none",
    "preservation": 0.0,  # its images take half of such a training; a test below is about them
}


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    return small_archive(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return with_few_blocks(linked_base(tmp_path_factory.mktemp("small") / "base"))


@pytest.fixture
def trainer(tmp_path, archive, base) -> Trainer:
    return Trainer(tmp_path, archive, SHORT, base)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, archive, base):
    """A training of 8 steps, and how long its steps took."""
    trainer = Trainer(tmp_path_factory.mktemp("uninterrupted"), archive, SHORT, base)
    training = trainer.start(steps=8)
    training.wait_for("plan:")
    began = time.monotonic()
    return training.tar(), time.monotonic() - began


def train_with_kills(trainer: Trainer, seconds: float, seed: int) -> Tar:
    """The tar of a training that is killed at random moments and resumed each time."""
    chance = random.Random(seed)
    for _ in range(KILLS_IN_A_CHAIN):
        training = trainer.start(steps=8, checkpoint_every=1 + seed % 2, resume_from="latest")
        training.wait_for("plan:")
        wait_until(lambda: list(trainer.checkpoints.glob(COMPLETE)), seconds=SECONDS_TO_TRAIN)
        kill(training, after=chance.uniform(0, seconds / 2))
    return trainer.train(steps=8, checkpoint_every=1 + seed % 2, resume_from="latest")


def kill(training: Training, *, after: float) -> None:
    time.sleep(after)
    training.process.kill()
    training.process.join()


def test_a_training_killed_at_twelve_random_moments_gives_the_same_lora(tmp_path, archive, base, uninterrupted):
    uninterrupted_tar, seconds = uninterrupted
    trainers = [Trainer(tmp_path / f"{number}", archive, SHORT, base) for number in range(CHAINS)]
    with ThreadPoolExecutor(CONCURRENT_TRAININGS) as pool:
        tars = list(pool.map(train_with_kills, trainers, itertools.repeat(seconds), range(CHAINS)))
    logs = [log.read_text() for log in tmp_path.glob("*/*/log")]
    assert sum("resuming from step" in log for log in logs) == CHAINS * KILLS_IN_A_CHAIN
    assert [tar.same_lora(uninterrupted_tar) for tar in tars] == [True] * CHAINS
    same_settings = tars[1::2]  # the others save checkpoints more often, which config.yaml says
    assert [tar.files == uninterrupted_tar.files for tar in same_settings] == [True] * len(same_settings), "page too"


def test_a_killed_training_of_the_other_family_with_preservation_gives_the_same_lora(tmp_path, archive):
    """On FLUX.2 [klein], whose neutral images have a negative prompt; those above are on FLUX.1."""
    base = with_few_blocks(base_with_few_prompts(tmp_path / "base", KLEIN.folder))
    trainers = [
        Trainer(tmp_path / name, archive, SHORT | {"preservation": 0.5}, base)
        for name in ("uninterrupted", "interrupted")
    ]
    uninterrupted, interrupted = (trainer.start(steps=6) for trainer in trainers)
    wait_until(lambda: list(trainers[1].checkpoints.glob("*/*/step-000002")), seconds=SECONDS_TO_TRAIN)
    kill(interrupted, after=0)
    resumed = trainers[1].start(steps=6, resume_from="latest")
    assert resumed.tar().same_lora(uninterrupted.tar())
    assert "resuming from step" in resumed.said
    assert uninterrupted.tar().account["steps_preserving"] == 3


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def newest_checkpoint(trainer: Trainer) -> Path:
    return max(trainer.checkpoints.glob(COMPLETE), key=lambda folder: folder.name)


@pytest.mark.parametrize("name", [f"optimizer{SUFFIX}", "manifest.json"])
def test_a_truncated_file_in_the_newest_checkpoint_falls_back_to_the_older_one_and_is_reported(
    trainer, uninterrupted, name
):
    unfinished = trainer.start(steps=8, checkpoint_every=1)
    wait_until(lambda: list(trainer.checkpoints.glob("*/*/step-000003")), seconds=SECONDS_TO_TRAIN)
    kill(unfinished, after=0)
    damaged = newest_checkpoint(trainer)
    path = damaged / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    training = trainer.start(steps=8, resume_from="latest")
    assert training.tar().same_lora(uninterrupted[0])
    assert f"resuming from step {step_of(damaged) - 1}" in training.said
    assert [line for line in training.said.splitlines() if damaged.name in line and name in line]


def test_latest_is_refused_if_every_checkpoint_is_damaged(trainer):
    trainer.train(steps=2)
    (newest_checkpoint(trainer) / "state.json").unlink()
    error = trainer.start(steps=4, resume_from="latest").error()
    assert error.startswith("resume_from latest: all checkpoints of this training are damaged: ")


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory, archive, base) -> Trainer:
    """A training of two steps, which others may be asked to resume."""
    trainer = Trainer(tmp_path_factory.mktemp("two-steps"), archive, SHORT, base)
    trainer.train(steps=2)
    return trainer


def other_images(trainer: Trainer) -> dict[str, object]:
    other = IMAGES | {"3.png": encoded(noisy_image(64, 64, seed=99))}
    return {"input_images": str(write(trainer.folder / "other.zip", zipped(other)))}


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("lora_rank 2: expected 4", lambda _: {"lora_rank": 4}),
        ("images_and_captions ", other_images),
        ("resolutions [64]: expected [96]", lambda _: {"resolution": "96"}),
        ("seed 42: expected 7", lambda _: {"seed": 7}),
    ],
)
def test_a_checkpoint_of_another_training_is_refused_with_the_field_that_differs(two_steps, field, changes):
    given = str(newest_checkpoint(two_steps))
    error = two_steps.start(steps=4, resume_from=given, **changes(two_steps)).error()
    assert error.startswith(f"resume_from is from a training with {field}")


def test_a_training_resumed_from_a_tar_gives_the_same_lora(trainer, uninterrupted):
    trainer.train(steps=4, keep_resume_state=True)
    first = trainer.folder / "1/made.tar"
    trainer.settings = trainer.settings | {"checkpoint_every": 250}
    training = trainer.start(steps=8, resume_from=str(first))
    assert training.tar().same_lora(uninterrupted[0])
    assert "resuming from step 4" in training.said


def test_a_training_resumed_after_its_last_step_keeps_its_state(trainer):
    trainer.train(steps=4, keep_resume_state=True)
    again = trainer.train(steps=4, keep_resume_state=True, resume_from="latest")
    assert again.files == Tar((trainer.folder / "1/made.tar").read_bytes()).files, "also the state"


def test_a_new_run_is_told_of_an_earlier_one_and_of_the_input_that_keeps_it_from_resuming(trainer):
    trainer.train(steps=2)
    again, other = trainer.start(steps=2), trainer.start(steps=2, learning_rate=0.02, resume_from="latest")
    again.tar(), other.tar()
    assert "an earlier run of this training has a checkpoint at step 2" in again.said
    assert "it differs in learning_rate (0.01 there, 0.02 here)" in other.said


def test_a_tar_without_a_resume_state_is_a_warm_start_and_the_log_says_so(trainer, uninterrupted):
    trainer.train(steps=4)
    training = trainer.start(steps=8, resume_from=str(trainer.folder / "1/made.tar"))
    assert not training.tar().same_lora(uninterrupted[0])
    assert "starting from the LoRA in resume_from: 20 layers used" in training.said
    assert "resuming from step" not in training.said


def test_latest_without_a_checkpoint_starts_at_the_first_step_and_the_log_says_so(trainer, uninterrupted):
    training = trainer.start(steps=8, resume_from="latest")
    assert training.tar().same_lora(uninterrupted[0])
    assert "this training has no checkpoint yet" in training.said


class TestTheSameTraining:
    """Determinism, through all of train()."""

    def test_gives_the_same_bytes_with_the_same_seed(self, trainer, uninterrupted):
        assert trainer.train(steps=8).files == uninterrupted[0].files

    def test_gives_another_lora_with_another_seed(self, trainer, uninterrupted):
        other, tensors = trainer.train(steps=8, seed=7).tensors, uninterrupted[0].tensors
        assert other.keys() == tensors.keys()
        assert not any(other[name].equal(tensors[name]) for name in tensors)

    def test_gives_the_same_lora_with_or_without_samples(self, trainer, uninterrupted):
        tar = trainer.train(steps=8, sample_prompts="a cat", sample_every=0)
        assert tar.file("output/flux_train_replicate/samples/step-000008-1-seed-42-a-cat.jpg")
        assert tar.same_lora(uninterrupted[0])
