"""One training in two processes on the CPU gives the result of a single process, and leaves no process behind."""

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
from tests.families import KLEIN
from tests.launched_pair import variables
from tests.random_models import MODELS
from tests.tiny import base_with_few_prompts
from tests.warm_process import FORKING, SECONDS_TO_TRAIN, Trainer, Training, no_process_left, small_archive

pytestmark = pytest.mark.xdist_group("warm")

SHORT = {
    "resolution": "64",
    "lora_rank": 2,
    "learning_rate": 0.01,
    "optimizer": "adamw",
    "steps": 3,
    "sample_prompts": "none",
}
SECONDS_TO_JOIN = 120
PRESERVING = 0.67  # share of the steps: the second and the third of three


@pytest.fixture(scope="module", params=MODELS)
def family(request):
    """The name of the family of the small model."""
    return request.param


@pytest.fixture(scope="module", params=[0.0, PRESERVING], ids=["plain", "preserving"])
def share(request):
    """The share of the steps that preserve."""
    return request.param


@pytest.fixture(scope="module")
def alone(family, share):
    """The results of a single process that takes the global batches."""
    return take_steps(MODELS[family], SingleProcess(), 2, share)


@pytest.fixture(scope="module")
def both(tmp_path_factory, family, share):
    """The results of each of two processes."""
    folder = tmp_path_factory.mktemp("team")
    workers = [
        FORKING.Process(target=run_rank, args=(family, 2, rank, 1, share, folder / "rendezvous", folder / f"{rank}"))
        for rank in (0, 1)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(SECONDS_TO_JOIN)
        assert worker.exitcode == 0
    return [torch.load(folder / f"{rank}") for rank in (0, 1)]


def test_each_process_has_the_gradients_of_a_single_process_with_the_global_batch(alone, both):
    assert len(alone["gradients"]) == STEPS
    for found in both:
        for ours, expected in zip(found["gradients"], alone["gradients"], strict=True):
            assert (ours - expected).abs().max() <= 1e-6 * expected.abs().max()


def test_both_processes_have_the_same_lora_bit_for_bit_and_nearly_that_of_a_single_process(alone, both):
    first, second = (found["lora"] for found in both)
    for name, expected in alone["lora"].items():
        assert first[name].equal(second[name])
        assert (first[name] - expected).abs().max() <= 5e-6 * expected.abs().max()  # sums in another order


def test_the_reported_losses_are_those_of_the_global_batches(alone, both, share):
    for found in both:
        for (loss, preserved), expected in zip(found["losses"], alone["losses"], strict=True):
            assert loss == pytest.approx(expected[0], rel=1e-6)
            assert preserved == pytest.approx(expected[1], rel=2e-5)  # of predictions that hardly differ yet
    assert [preserved is not None for _, preserved in alone["losses"]] == [False, bool(share), bool(share)]


@pytest.mark.parametrize("share", [0.0], indirect=True)
def test_each_process_takes_its_own_part_of_every_batch_with_its_own_noise(alone, both):
    per_epoch = 2  # a batch of two and one of a single example
    assert EXAMPLES == 3
    for number, (expected,) in enumerate(alone["inputs"]):
        parts = [part for found in both for part in found["inputs"][number]]
        assert len(parts) == len(expected)
        assert torch.cat(parts).equal(expected)
        assert len({part.sum().item() for part in parts}) == len(parts)
    assert {len(both[1]["inputs"][number]) for number in range(per_epoch)} == {0, 1}


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    return small_archive(tmp_path_factory.mktemp("images"))


@pytest.fixture
def trainer(tmp_path, archive, warm_python) -> Trainer:
    return Trainer(tmp_path, archive, SHORT, environment={"PYTHON_EXEC": str(warm_python)})  # for torchrun's processes


def test_a_training_in_two_processes_gives_the_lora_of_one_process_with_twice_the_batch_size(trainer):
    """The tolerance is due to Adam, which divides gradients by their own size, so that rounding errors in tiny
    gradients become large. Without such gradients, in the tests above, it is 1e-6. Preservation is on, so the processes
    also share the neutral images. Variables of a launcher that Cog's server inherits change nothing. On FLUX.2 [klein],
    whose worker processes also get a negative prompt; test_machines.py has the same for FLUX.1."""
    environment = {**trainer.environment, **variables(1, 1), "MASTER_ADDR": "192.0.2.1"}
    trainer = replace(
        trainer, base=base_with_few_prompts(trainer.folder / "base", KLEIN.folder), environment=environment
    )
    given = {"preservation": PRESERVING}
    parallel, alone = trainer.start(processes=2, batch_size=1, **given), trainer.start(batch_size=2, **given)
    ours, expected = trained_weights(parallel), trained_weights(alone)
    assert (ours - expected).norm() <= 5e-3 * expected.norm()
    assert last_logged_step(parallel) == last_logged_step(alone)


def trained_weights(training: Training) -> torch.Tensor:
    """All exported weights that were zero at first (B), in full precision, from the training's last checkpoint."""
    report = training.tar().account
    assert (report["steps_done"], report["steps_preserving"]) == (3, 2)
    line = next(line for line in training.said.splitlines() if line.startswith("checkpoints are saved to "))
    folder = line.split()[4].rstrip(";")
    average = read_checkpoint(Path(folder) / "step-000003").tensors("average")
    return torch.cat([average[name].flatten() for name in sorted(average) if ".lora_B." in name])


def last_logged_step(training: Training) -> str:
    """The last step and its loss in the log."""
    return [line for line in training.said.splitlines() if line.startswith("step ")][-1].partition(" s/step")[0][:20]


def start_stepping(trainer: Trainer, **inputs: object) -> Training:
    """An endless training in two processes that has taken a step."""
    training = trainer.start(processes=2, **{"steps": 6000, "checkpoint_every": 6000, "preservation": 0.0} | inputs)
    training.wait_for("/6000  loss ")
    return training


def test_sigterm_ends_the_training_with_a_lora_and_a_checkpoint_and_no_process_is_left(trainer):
    training = start_stepping(trainer)
    with no_process_left(training):
        os.kill(training.process.pid, signal.SIGTERM)
        report = training.tar().account
    assert report["stopped_early"] == "SIGTERM came"
    assert list(trainer.checkpoints.glob(f"*/*/step-{report['steps_done']:06d}/manifest.json"))


def test_an_exception_in_the_parent_process_ends_the_workers_and_leaves_a_checkpoint(trainer):
    """Cog cancels with such an exception."""
    training = start_stepping(trainer)
    with no_process_left(training):
        os.kill(training.process.pid, signal.SIGINT)
        training.process.join(SECONDS_TO_TRAIN)
    assert "KeyboardInterrupt" in training.said
    assert list(trainer.checkpoints.glob("*/*/step-*/manifest.json"))


def test_no_worker_outlives_a_killed_parent_process(trainer):
    training = start_stepping(trainer)
    with no_process_left(training):
        training.process.kill()
    assert list(trainer.checkpoints.glob("*/*/step-*/manifest.json"))


def workers(training: Training) -> list[psutil.Process]:
    """The processes that take the steps."""
    processes = psutil.Process(training.process.pid).children(recursive=True)
    return [each for each in processes if "accelerate" not in " ".join(each.cmdline())]


def test_a_killed_worker_fails_the_training_with_one_clear_sentence(trainer):
    """The system kills processes like this if memory is short."""
    training = start_stepping(trainer)
    with no_process_left(training):
        workers(training)[-1].kill()
        error = training.error()
    assert error == "a process of the training has ended, perhaps because memory ran out"
    assert list(trainer.checkpoints.glob("*/*/step-*/manifest.json"))


def test_an_error_in_a_worker_is_the_error_of_the_training(trainer):
    trainer.train(layers_to_optimize_regex="attn.to_q")
    given = str(trainer.folder / "1/made.tar")
    error = trainer.start(processes=2, layers_to_optimize_regex="attn.to_k", resume_from=given).error()
    found = "resume_from is a LoRA on 6 layers, none of which is trained"
    assert error == f"{found}: expected at least one of the trained layers"
