"""One training in two processes on the CPU: the result of one process, and no process that outlives it."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from lora.training.checkpoints.files import read_checkpoint
from lora.training.learning.data_parallel import SingleProcess
from tests.data_parallel_steps import EXAMPLES, STEPS, run_rank, take_steps
from tests.tiny import base_with_few_prompts
from tests.warm_process import FORKING, SECONDS_TO_TRAIN, Trainer, Training, no_process_left, small_archive

pytestmark = pytest.mark.xdist_group("warm")

SHORT = {"resolution": "64", "lora_rank": 2, "learning_rate": 0.01, "optimizer": "adamw", "steps": 3}
SECONDS_TO_MEET = 120
PRESERVING = 0.67  # share of the steps: the second and the third of three


@pytest.fixture(scope="module", params=[0.0, PRESERVING], ids=["plain", "preserving"])
def share(request):
    """Of the steps, that preserve."""
    return request.param


@pytest.fixture(scope="module")
def alone(share):
    """What one process finds that takes the joined batches."""
    return take_steps(SingleProcess(), 2, share)


@pytest.fixture(scope="module")
def both(tmp_path_factory, share):
    """What each of two processes finds."""
    folder = tmp_path_factory.mktemp("process_group")
    members = [
        FORKING.Process(target=run_rank, args=(2, rank, 1, share, folder / "meeting", folder / f"{rank}"))
        for rank in (0, 1)
    ]
    for member in members:
        member.start()
    for member in members:
        member.join(SECONDS_TO_MEET)
        assert member.exitcode == 0
    return [torch.load(folder / f"{rank}") for rank in (0, 1)]


def test_each_process_has_the_gradients_of_one_process_with_the_joined_batch(alone, both):
    assert len(alone["gradients"]) == STEPS
    for found in both:
        for ours, whole in zip(found["gradients"], alone["gradients"], strict=True):
            assert (ours - whole).abs().max() <= 1e-6 * whole.abs().max()


def test_both_processes_wear_the_same_lora_bit_for_bit_and_that_of_one_process_nearly(alone, both):
    first, second = (found["lora"] for found in both)
    for name, whole in alone["lora"].items():
        assert first[name].equal(second[name])
        assert (first[name] - whole).abs().max() <= 5e-6 * whole.abs().max()  # sums in another order, on any processor


def test_the_reported_losses_are_those_of_the_joined_batches(alone, both, share):
    for found in both:
        for ours, whole in zip(found["losses"], alone["losses"], strict=True):
            assert [*filter(None, ours)] == pytest.approx([*filter(None, whole)], rel=1e-6)
    assert [preserved is not None for _, preserved in alone["losses"]] == [False, bool(share), bool(share)]


@pytest.mark.parametrize("share", [0.0], indirect=True)
def test_each_process_takes_its_own_part_of_every_batch_with_its_own_noise(alone, both):
    per_epoch = 2  # a batch of two and one of a single example
    assert EXAMPLES == 3
    for number, (whole,) in enumerate(alone["asked"]):
        parts = [part for found in both for part in found["asked"][number]]
        assert len(parts) == len(whole)
        assert torch.cat(parts).equal(whole)
        assert len({part.sum().item() for part in parts}) == len(parts)
    assert {len(both[1]["asked"][number]) for number in range(per_epoch)} == {0, 1}


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    return small_archive(tmp_path_factory.mktemp("images"))


@pytest.fixture
def trainer(tmp_path, archive) -> Trainer:
    return Trainer(tmp_path, archive, SHORT)


def test_a_training_in_two_processes_gives_the_lora_of_one_with_twice_the_batch(trainer):
    """As nearly as Adam lets it: it divides gradients that are all but zero by themselves, and so also what rounding
    does to them. Above, where there are none such, it is 1e-6. With preservation, by images that they share."""
    trainer = replace(trainer, base=base_with_few_prompts(trainer.folder / "base"))
    given = {"preservation": PRESERVING}
    process_group, alone = trainer.start(processes=2, batch_size=1, **given), trainer.start(batch_size=2, **given)
    ours, whole = learned_in(process_group), learned_in(alone)
    assert (ours - whole).norm() <= 5e-3 * whole.norm()
    assert last_step_said(process_group) == last_step_said(alone)


def learned_in(training: Training) -> torch.Tensor:
    """All that is given away and was zero at the beginning, in full precision, from the training's last checkpoint."""
    account = training.tar().account
    assert (account["steps_done"], account["steps_preserving"]) == (3, 2)
    line = next(line for line in training.said.splitlines() if line.startswith("checkpoints go to "))
    folder = line.split()[3].rstrip(";")
    average = read_checkpoint(Path(folder) / "step-000003").tensors("average")
    return torch.cat([average[name].flatten() for name in sorted(average) if ".lora_B." in name])


def last_step_said(training: Training) -> str:
    """Step and loss, as the log has them."""
    return [line for line in training.said.splitlines() if line.startswith("step ")][-1].partition(" s a step")[0][:20]


def stepping(trainer: Trainer, **inputs: object) -> Training:
    """An endless training in two processes that has taken a step."""
    training = trainer.start(processes=2, **{"steps": 6000, "checkpoint_every": 6000} | inputs)
    training.wait_for("/6000  loss ")
    return training


def test_sigterm_ends_the_training_with_a_lora_and_a_checkpoint_and_no_process_is_left(trainer):
    training = stepping(trainer)
    with no_process_left(training):
        os.kill(training.process.pid, signal.SIGTERM)
        account = training.tar().account
    assert account["stopped_early"] == "SIGTERM came"
    assert list(trainer.checkpoints.glob(f"*/*/step-{account['steps_done']:06d}/manifest.json"))


def test_an_exception_in_the_process_that_started_them_ends_them_and_leaves_a_checkpoint(trainer):
    """Which is how Cog cancels."""
    training = stepping(trainer)
    with no_process_left(training):
        os.kill(training.process.pid, signal.SIGINT)
        training.process.join(SECONDS_TO_TRAIN)
    assert "KeyboardInterrupt" in training.said
    assert list(trainer.checkpoints.glob("*/*/step-*/manifest.json"))


def test_no_process_outlives_a_killed_one_that_started_them(trainer):
    training = stepping(trainer)
    with no_process_left(training):
        training.process.kill()
    assert list(trainer.checkpoints.glob("*/*/step-*/manifest.json"))


def members(training: Training) -> list[psutil.Process]:
    """The processes that take the steps."""
    family = psutil.Process(training.process.pid).children(recursive=True)
    return [each for each in family if "accelerate" not in " ".join(each.cmdline())]


def test_a_member_that_is_killed_fails_the_training_with_one_clear_sentence(trainer):
    """As the system does where memory is short."""
    training = stepping(trainer)
    with no_process_left(training):
        members(training)[-1].kill()
        error = training.error()
    assert error == "a process of the training is gone, as if killed: memory may have run out"
    assert list(trainer.checkpoints.glob("*/*/step-*/manifest.json"))


def test_an_error_in_the_members_is_told_in_its_own_words(trainer):
    trainer.train(layers_to_optimize_regex="attn.to_q")
    given = str(trainer.folder / "1/made.tar")
    error = trainer.start(processes=2, layers_to_optimize_regex="attn.to_k", resume_from=given).error()
    assert error == "resume_from is a LoRA on 6 layers, none of which this training has"
