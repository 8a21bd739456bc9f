"""When memory runs out, the next plan is tried, and the log says so."""

import gc
import weakref

import pytest
import torch

from lora.training.runs.fallbacks import run_with_fallbacks
from tests.lora.training.trainers import a_log
from tests.tiny import assert_one_sentence


class Memory:
    """An attempt that fits into memory with some options only."""

    def __init__(self, *enough):
        self.enough, self.tried = enough, []

    def __call__(self, option):
        self.tried.append(option)
        if option not in self.enough:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return f"trained in {option}"


def test_the_first_plan_is_used_if_it_fits(capsys):
    attempt = Memory("bf16", "int8")
    assert run_with_fallbacks(["bf16", "int8"], attempt, a_log()) == "trained in bf16"
    assert attempt.tried == ["bf16"]
    assert capsys.readouterr().out == ""


def test_out_of_memory_tries_the_next_plan_and_logs_it(capsys):
    attempt = Memory("nf4")
    assert run_with_fallbacks(["bf16", "int8", "nf4"], attempt, a_log()) == "trained in nf4"
    assert attempt.tried == ["bf16", "int8", "nf4"]
    assert capsys.readouterr().out.splitlines() == ["out of memory: trying a plan that needs less"] * 2


def test_without_another_plan_the_error_says_what_to_do(capsys):
    attempt = Memory()
    with pytest.raises(RuntimeError, match="not enough memory") as error:
        run_with_fallbacks(["bf16", "nf4"], attempt, a_log())
    assert_one_sentence(error.value, "resolution", "batch_size", "lora_rank")
    assert attempt.tried == ["bf16", "nf4"]
    assert capsys.readouterr().out.splitlines()[-1] == "out of memory"


def test_other_errors_are_not_taken_for_out_of_memory():
    def attempt(_rung):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        run_with_fallbacks(["bf16", "int8"], attempt, a_log())


def test_the_memory_of_a_failed_attempt_is_freed_before_the_next():
    """A traceback keeps every tensor of its frames alive."""
    references = []

    class Weights:
        """What takes the memory; in a reference cycle, as models are."""

        def __init__(self):
            self.me = self

    def attempt(option):
        if option == "first":
            weights = Weights()
            references.append(weakref.ref(weights))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return references[0]()

    gc.disable()
    try:
        assert run_with_fallbacks(["first", "second"], attempt, a_log()) is None
    finally:
        gc.enable()
