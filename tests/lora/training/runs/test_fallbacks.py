"""When memory runs out, the next plan is tried, and a person is told."""

import gc
import weakref

import pytest
import torch

from lora.training.runs.fallbacks import run_with_fallbacks
from tests.lora.training.trainers import a_log
from tests.tiny import assert_one_sentence


class Memory:
    """An attempt for which memory suffices on some rungs alone."""

    def __init__(self, *enough):
        self.enough, self.tried = enough, []

    def __call__(self, rung):
        self.tried.append(rung)
        if rung not in self.enough:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return f"trained in {rung}"


def test_the_first_rung_is_taken_if_it_holds(capsys):
    attempt = Memory("bf16", "int8")
    assert run_with_fallbacks(["bf16", "int8"], attempt, a_log()) == "trained in bf16"
    assert attempt.tried == ["bf16"]
    assert capsys.readouterr().out == ""


def test_out_of_memory_goes_down_one_rung_and_says_so(capsys):
    attempt = Memory("nf4")
    assert run_with_fallbacks(["bf16", "int8", "nf4"], attempt, a_log()) == "trained in nf4"
    assert attempt.tried == ["bf16", "int8", "nf4"]
    assert capsys.readouterr().out.splitlines() == ["out of memory: the next plan needs less"] * 2


def test_with_no_rung_left_a_person_is_told_what_to_do(capsys):
    attempt = Memory()
    with pytest.raises(RuntimeError, match="memory does not suffice") as error:
        run_with_fallbacks(["bf16", "nf4"], attempt, a_log())
    assert_one_sentence(error.value, "resolution", "batch_size", "lora_rank")
    assert attempt.tried == ["bf16", "nf4"]
    assert capsys.readouterr().out.splitlines()[-1] == "out of memory"


def test_another_error_is_not_taken_for_a_lack_of_memory():
    def attempt(_rung):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        run_with_fallbacks(["bf16", "int8"], attempt, a_log())


def test_what_the_failed_attempt_held_is_gone_before_the_next():
    """A traceback holds on to every tensor of the frames that it went through."""
    held = []

    class Weights:
        """What takes the memory; in a cycle, as models are."""

        def __init__(self):
            self.me = self

    def attempt(rung):
        if rung == "first":
            weights = Weights()
            held.append(weakref.ref(weights))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return held[0]()

    gc.disable()
    try:
        assert run_with_fallbacks(["first", "second"], attempt, a_log()) is None
    finally:
        gc.enable()
