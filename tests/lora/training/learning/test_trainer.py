"""However a training ends, it leaves a checkpoint, and a resumed training gives the same LoRA."""

import os
import resource
import signal
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from lora.training import stop as stop_module
from lora.training.learning.adapter import SAVED_PRECISION
from lora.training.progress import Log
from lora.training.stop import Termination
from tests.lora.training.trainers import (
    SAMPLE_STEPS,
    a_training,
    assert_same_checkpoint,
    on_nth_call,
    run,
    small_base,
    stopped_in,
    unseen_examples,
)
from tests.tiny import a_recipe, recorded_calls

STEPS = 6


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return small_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The last checkpoint of a training without validation and samples."""
    return run(a_training(tmp_path_factory.mktemp("plain"), a_recipe(steps=STEPS))).last_checkpoint()


def assert_same_but_for_validation_and_samples(checkpoint, other):
    assert_same_checkpoint(
        replace(checkpoint, names=tuple(name for name in checkpoint.names if name != "samples")),
        replace(other, values=other.values | {"validation_results": checkpoint.values["validation_results"]}),
    )


# Resuming


@pytest.mark.parametrize("is_validated", [False, True])
@pytest.mark.parametrize("is_sampled", [False, True])
def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path, base, uninterrupted, is_validated, is_sampled):
    """Traps 31, 39, 47: bit for bit, with or without validation and samples."""
    options = {"held_out": unseen_examples() if is_validated else (), "base": base if is_sampled else None}
    recipe = a_recipe(steps=STEPS)
    first = stopped_in(a_training(tmp_path / "first", recipe, **options), 2)
    assert first.last_checkpoint().step == 2
    second = stopped_in(a_training(tmp_path / "second", recipe, checkpoint=first.last_checkpoint(), **options), 3)
    assert second.last_checkpoint().step == 5
    third = run(a_training(tmp_path / "third", recipe, checkpoint=second.last_checkpoint(), **options))
    assert_same_but_for_validation_and_samples(third.last_checkpoint(), uninterrupted)
    assert len(third.last_checkpoint().values["validation_results"]) == (6 if is_validated else 0)
    samples = {path.name: path.read_bytes() for path in tmp_path.glob("third/samples/*")}
    steps = range(STEPS + 1) if is_sampled else ()
    assert samples.keys() == {f"step-{step:06}-1-seed-42-tok.jpg" for step in steps}
    earlier = [path for name in ("first", "second") for path in (tmp_path / name / "samples").glob("*")]
    assert all(samples[path.name] == path.read_bytes() for path in earlier)


@pytest.mark.parametrize("optimizer", ["adamw8bit", "prodigy"])
def test_other_optimizers_are_resumed_bit_for_bit_too(tmp_path, optimizer):
    recipe = a_recipe(steps=STEPS, optimizer=optimizer, lr_scheduler="cosine", lora_rank=64)
    expected = run(a_training(tmp_path / "whole", recipe)).last_checkpoint()
    first = stopped_in(a_training(tmp_path / "first", recipe), 4)
    assert_same_checkpoint(
        run(a_training(tmp_path / "second", recipe, checkpoint=first.last_checkpoint())).last_checkpoint(), expected
    )


def test_a_checkpoint_of_an_earlier_version_without_validation_results_is_resumed(tmp_path, uninterrupted):
    recipe = a_recipe(steps=STEPS)
    newest = stopped_in(a_training(tmp_path / "first", recipe), 4).last_checkpoint()
    values = {name: value for name, value in newest.values.items() if name != "validation_results"}
    second = run(a_training(tmp_path / "second", recipe, checkpoint=replace(newest, values=values)))
    assert_same_checkpoint(second.last_checkpoint(), uninterrupted)


def test_a_training_can_be_resumed_with_more_steps(tmp_path, uninterrupted):
    short = run(a_training(tmp_path / "short", a_recipe(steps=3)))
    longer = run(a_training(tmp_path / "longer", a_recipe(steps=STEPS), checkpoint=short.last_checkpoint()))
    assert_same_checkpoint(longer.last_checkpoint(), uninterrupted)


def test_a_finished_training_takes_no_steps_when_it_is_resumed(tmp_path, uninterrupted):
    training = a_training(tmp_path, a_recipe(steps=STEPS), checkpoint=uninterrupted)
    with recorded_calls(training.transformer) as calls:
        run(training)
    assert calls == []
    assert training.store.newest() is None, "and no checkpoint is saved"
    assert training.trainer.result(None).summary.exported_step == STEPS


def test_each_step_takes_as_many_batches_as_are_accumulated(tmp_path):
    """Trap 32: eight batches are two steps of the optimizer, the learning rate and the average."""
    training = a_training(tmp_path, a_recipe(steps=2, gradient_accumulation=4))
    with recorded_calls(training.transformer) as calls:
        run(training)
    values = training.last_checkpoint().values
    assert len(calls) == 8
    assert (values["step"], values["schedule"]["last_epoch"], values["averaged"]) == (2, 2 + 1, 2), (
        "the schedule is entered one step later"
    )


def test_checkpoints_are_saved_at_the_given_interval(tmp_path):
    training = a_training(tmp_path, a_recipe(steps=5), checkpoint_every=2)
    found = []
    with on_nth_call(training.transformer, 5, lambda: found.extend(path.name for path in tmp_path.glob("step-*"))):
        run(training)
    assert sorted(found) == ["step-000002", "step-000004"]
    assert training.last_checkpoint().step == 5


# Early ends


def test_a_time_limit_ends_a_training_within_a_step(tmp_path, monkeypatch):
    training = a_training(tmp_path, a_recipe(steps=STEPS), termination=1)
    later = stop_module.time.monotonic() + 61
    with on_nth_call(
        training.transformer, 3, lambda: monkeypatch.setattr(stop_module.time, "monotonic", lambda: later)
    ):
        run(training, stops="time_limit of 1 minutes is over")
    assert training.last_checkpoint().step == 3


def test_a_closed_log_ends_a_training_within_a_step(tmp_path):
    """Case B: the only sign that Cog's server is shutting down."""

    def closed(_name, _value):
        raise BrokenPipeError

    log = Log(closed, None)
    training = a_training(tmp_path, a_recipe(steps=STEPS), log=log)
    with on_nth_call(training.transformer, 3, lambda: log.record("train.loss", 1.0)):
        run(training, stops="the server is shutting down")
    assert training.last_checkpoint().step == 3
    assert training.trainer.result("the server is shutting down").summary.steps_done == 3


def test_sigterm_ends_a_training_within_a_step(tmp_path):
    before, termination = signal.getsignal(signal.SIGTERM), Termination.install()
    try:
        training = a_training(tmp_path, a_recipe(steps=STEPS), termination=termination)
        send_sigterm = lambda: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
        with termination.during_job(), on_nth_call(training.transformer, 3, send_sigterm):
            run(training, stops="SIGTERM came")
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, before)
    assert training.last_checkpoint().step == 3


def test_a_stop_request_during_the_last_step_is_no_early_stop(tmp_path):
    training = a_training(tmp_path, a_recipe(steps=3))
    with on_nth_call(training.transformer, 3, training.request_stop):
        run(training)
    assert training.trainer.result(None).summary.line() == (
        "The LoRA is from step 3 of 3: the last, as no images were held out to compare it on."
    )


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_in_a_step_leaves_a_checkpoint_of_the_step_before(tmp_path, uninterrupted, error):
    """A cancellation is such an exception."""

    def fail():
        raise error("in the midst")

    training = a_training(tmp_path / "first", a_recipe(steps=STEPS))
    with pytest.raises(error, match="in the midst"), on_nth_call(training.transformer, 4, fail):
        training.trainer.run()
    assert training.last_checkpoint().step == 3
    later = run(a_training(tmp_path / "second", a_recipe(steps=STEPS), checkpoint=training.last_checkpoint()))
    assert_same_checkpoint(later.last_checkpoint(), uninterrupted)


def test_an_exception_during_validation_leaves_the_weights_and_not_their_average(tmp_path, uninterrupted):
    """Trap 31: at that moment, the LoRA has the averaged weights."""

    def fail():
        raise KeyboardInterrupt

    training = a_training(tmp_path / "first", a_recipe(steps=STEPS), held_out=unseen_examples())
    with pytest.raises(KeyboardInterrupt), on_nth_call(training.transformer, 13, fail, without_grad=True):
        training.trainer.run()  # 5 batches each before the first step, after the second and after the third
    assert training.last_checkpoint().step == 3
    later = run(a_training(tmp_path / "second", a_recipe(steps=STEPS), checkpoint=training.last_checkpoint()))
    assert_same_but_for_validation_and_samples(later.last_checkpoint(), uninterrupted)


def test_an_interrupted_step_is_not_saved(tmp_path):
    def fail(*_):
        raise KeyboardInterrupt

    training = a_training(tmp_path, a_recipe(steps=STEPS), checkpoint_every=2)
    with (
        on_nth_call(training.transformer, 4, lambda: training.trainer._state.optimizer.register_step_post_hook(fail)),
        pytest.raises(KeyboardInterrupt),
    ):
        training.trainer.run()
    assert training.last_checkpoint().step == 2


def test_a_stop_request_interrupts_a_sample(tmp_path, base):
    training = a_training(tmp_path, a_recipe(steps=STEPS), base=base)
    with (
        on_nth_call(training.transformer, SAMPLE_STEPS + 2, training.request_stop, without_grad=True),
        recorded_calls(training.transformer) as calls,
    ):
        run(training, stops="a test asked")
    assert training.last_checkpoint().step == 2, (
        "requested in the samples after the first step; noticed in the second step"
    )
    assert len(calls) == SAMPLE_STEPS + 1 + 2 + 1, "a sample, a step, two calls for a sample, a step"
    assert {path.name for path in (tmp_path / "samples").iterdir()} == {"step-000000-1-seed-42-tok.jpg"}


@contextmanager
def full_disk(bytes_per_file):
    """Limit the size of files."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_per_file, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_logged_and_does_not_end_the_training(tmp_path, uninterrupted, capsys):
    """Case B21."""
    training = a_training(tmp_path, a_recipe(steps=STEPS), held_out=unseen_examples(), checkpoint_every=2)
    with full_disk(10_000):
        run(training)
    start = "could not save a checkpoint at step "
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(start)]
    assert {line.split(":")[0].removeprefix(start) for line in lines} >= {"2", "4", "6"}
    assert training.store.newest() is None
    tensors = training.trainer.result(None).tensors
    average = uninterrupted.tensors("average")
    for name, tensor in tensors.items():
        expected = average[name.removeprefix("transformer.").replace(".weight", ".default.weight")]
        assert torch.equal(tensor, expected.to(SAVED_PRECISION))
