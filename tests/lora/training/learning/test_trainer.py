"""However a training ends, and wherever it goes on, nothing of it is lost and its LoRA is the same."""

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
    a_training,
    assert_same_end,
    on_nth_call,
    run,
    small_base,
    stopped_in,
    strangers,
)
from tests.tiny import a_recipe, recorded_calls

STEPS = 6


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return small_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The end of a training of which nothing is judged and nothing shown."""
    return run(a_training(tmp_path_factory.mktemp("plain"), a_recipe(steps=STEPS))).end()


def same_but_for_judgements(checkpoint, other):
    assert_same_end(checkpoint, replace(other, values=other.values | {"judgements": checkpoint.values["judgements"]}))


# Going on


@pytest.mark.parametrize("is_judged", [False, True])
@pytest.mark.parametrize("is_shown", [False, True])
def test_a_training_that_goes_on_equals_one_that_was_never_stopped(tmp_path, base, uninterrupted, is_judged, is_shown):
    """Traps 31, 39, 47: bit for bit, whether it is judged and shown or not."""
    meanwhile = {"held_out": strangers() if is_judged else (), "base": base if is_shown else None}
    recipe = a_recipe(steps=STEPS)
    first = stopped_in(a_training(tmp_path / "first", recipe, **meanwhile), 2)
    assert first.end().step == 2
    second = stopped_in(a_training(tmp_path / "second", recipe, begin=first.end(), **meanwhile), 3)
    assert second.end().step == 5
    third = run(a_training(tmp_path / "third", recipe, begin=second.end(), **meanwhile))
    same_but_for_judgements(third.end(), uninterrupted)
    assert len(third.end().values["judgements"]) == (6 if is_judged else 0)
    shown = {path.name for path in tmp_path.glob("*/samples/*")}
    assert shown == ({f"step-{step:06}-1.jpg" for step in range(STEPS + 1)} if is_shown else set())


@pytest.mark.parametrize("optimizer", ["adamw8bit", "prodigy"])
def test_other_optimizers_go_on_bit_for_bit_too(tmp_path, optimizer):
    recipe = a_recipe(steps=STEPS, optimizer=optimizer, lr_scheduler="cosine", lora_rank=64)
    expected = run(a_training(tmp_path / "whole", recipe)).end()
    first = stopped_in(a_training(tmp_path / "first", recipe), 4)
    assert_same_end(run(a_training(tmp_path / "second", recipe, begin=first.end())).end(), expected)


def test_a_training_goes_on_further_than_was_first_asked(tmp_path, uninterrupted):
    short = run(a_training(tmp_path / "short", a_recipe(steps=3)))
    longer = run(a_training(tmp_path / "longer", a_recipe(steps=STEPS), begin=short.end()))
    assert_same_end(longer.end(), uninterrupted)


def test_what_is_done_already_is_not_done_again(tmp_path, uninterrupted):
    training = a_training(tmp_path, a_recipe(steps=STEPS), begin=uninterrupted)
    with recorded_calls(training.transformer) as calls:
        run(training)
    assert calls == []
    assert training.store.newest() is None, "nor saved again"
    assert training.session.result(None).account.step == STEPS


def test_each_step_takes_so_many_batches_as_are_accumulated(tmp_path):
    """Trap 32: eight batches are two steps of the optimizer, the learning rate and the average."""
    training = a_training(tmp_path, a_recipe(steps=2, gradient_accumulation=4))
    with recorded_calls(training.transformer) as calls:
        run(training)
    values = training.end().values
    assert len(calls) == 8
    assert (values["step"], values["schedule"]["last_epoch"], values["averaged"]) == (2, 2 + 1, 2), (
        "the schedule is entered one step later"
    )


def test_it_is_saved_every_so_many_steps(tmp_path):
    training = a_training(tmp_path, a_recipe(steps=5), checkpoint_every=2)
    found = []
    with on_nth_call(training.transformer, 5, lambda: found.extend(path.name for path in tmp_path.glob("step-*"))):
        run(training)
    assert sorted(found) == ["step-000002", "step-000004"]
    assert training.end().step == 5


# Ends


def test_a_time_limit_ends_it_within_a_step(tmp_path, monkeypatch):
    training = a_training(tmp_path, a_recipe(steps=STEPS), minutes=1)
    later = stop_module.time.monotonic() + 61
    with on_nth_call(
        training.transformer, 3, lambda: monkeypatch.setattr(stop_module.time, "monotonic", lambda: later)
    ):
        run(training, stops="time_limit of 1 minutes is over")
    assert training.end().step == 3


def test_a_closed_log_ends_it_within_a_step(tmp_path):
    """Case B: the only sign that Cog's server shuts down."""

    def closed(_name, _value):
        raise BrokenPipeError

    log = Log(closed)
    training = a_training(tmp_path, a_recipe(steps=STEPS), log=log)
    with on_nth_call(training.transformer, 3, lambda: log.record("train.loss", 1.0)):
        run(training, stops="the server is shutting down")
    assert training.end().step == 3
    assert training.session.result("the server is shutting down").account.done == 3


def test_sigterm_ends_it_within_a_step(tmp_path):
    before, termination = signal.getsignal(signal.SIGTERM), Termination.listening()
    try:
        training = a_training(tmp_path, a_recipe(steps=STEPS), termination=termination)
        terminate = lambda: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
        with termination.during_job(), on_nth_call(training.transformer, 3, terminate):
            run(training, stops="SIGTERM came")
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, before)
    assert training.end().step == 3


def test_a_wish_that_comes_with_the_last_step_is_no_early_end(tmp_path):
    training = a_training(tmp_path, a_recipe(steps=3))
    with on_nth_call(training.transformer, 3, training.ask_to_stop):
        run(training)
    assert training.session.result(None).account.line() == (
        "The LoRA is that of step 3 of 3: the last, as no images were held out to compare it on."
    )


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_in_a_step_leaves_a_checkpoint_of_the_one_before(tmp_path, uninterrupted, error):
    """As does being cancelled, which is one."""

    def fail():
        raise error("in the midst")

    training = a_training(tmp_path / "first", a_recipe(steps=STEPS))
    with pytest.raises(error, match="in the midst"), on_nth_call(training.transformer, 4, fail):
        training.session.run()
    assert training.end().step == 3
    later = run(a_training(tmp_path / "second", a_recipe(steps=STEPS), begin=training.end()))
    assert_same_end(later.end(), uninterrupted)


def test_an_exception_while_it_is_judged_leaves_the_weights_and_not_their_average(tmp_path, uninterrupted):
    """Trap 31: the model wears the average just then."""

    def fail():
        raise KeyboardInterrupt

    training = a_training(tmp_path / "first", a_recipe(steps=STEPS), held_out=strangers())
    with pytest.raises(KeyboardInterrupt), on_nth_call(training.transformer, 45, fail, without_grad=True):
        training.session.run()  # 20 questions each before the first step, after the second and after the third
    assert training.end().step == 3
    later = run(a_training(tmp_path / "second", a_recipe(steps=STEPS), begin=training.end()))
    same_but_for_judgements(later.end(), uninterrupted)


def test_a_half_taken_step_is_not_saved(tmp_path):
    def fail(*_):
        raise KeyboardInterrupt

    training = a_training(tmp_path, a_recipe(steps=STEPS), checkpoint_every=2)
    with (
        on_nth_call(training.transformer, 4, lambda: training.session._state.optimizer.register_step_post_hook(fail)),
        pytest.raises(KeyboardInterrupt),
    ):
        training.session.run()
    assert training.end().step == 2


def test_half_a_sample_is_given_up_when_an_end_is_wished_for(tmp_path, base):
    training = a_training(tmp_path, a_recipe(steps=STEPS), base=base)
    with (
        on_nth_call(training.transformer, 30, training.ask_to_stop, without_grad=True),
        recorded_calls(training.transformer) as calls,
    ):
        run(training, stops="a test asked")
    assert training.end().step == 2, "shown after the first; heard before the second, which is still taken"
    assert len(calls) == 28 + 1 + 2 + 1, "a sample, a step, two calls for a sample, a step"
    assert {path.name for path in (tmp_path / "samples").iterdir()} == {"step-000000-1.jpg"}


@contextmanager
def full_disk(bytes_of_a_file):
    """No file can have more."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_of_a_file, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_told_and_survived(tmp_path, uninterrupted, capsys):
    """Case B21."""
    training = a_training(tmp_path, a_recipe(steps=STEPS), held_out=strangers(), checkpoint_every=2)
    with full_disk(10_000):
        run(training)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("no checkpoint at step")]
    assert {line.split(":")[0].removeprefix("no checkpoint at step ") for line in lines} >= {"2", "4", "6"}
    assert training.store.newest() is None
    tensors = training.session.result(None).tensors
    average = uninterrupted.tensors("average")
    for name, tensor in tensors.items():
        kept = average[name.removeprefix("transformer.").replace(".weight", ".default.weight")]
        assert torch.equal(tensor, kept.to(SAVED_PRECISION))
