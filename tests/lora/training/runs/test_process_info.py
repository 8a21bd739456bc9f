"""Processes that cannot train together are refused by name, and a plan is made for the smallest machine."""

from dataclasses import replace

import pytest

from lora.training.runs.process_info import ProcessInfo, described, processes_of, refuse_unequal
from tests.tiny import TINY_FLUX, assert_one_sentence, linked_base
from tests.tiny import replace as replace_file

FIRST = replace(ProcessInfo.here(0, base=TINY_FLUX, name="tiny"), host="a", gpu="H100", gpu_id="gpu-0", free_bytes=80)
SECOND = replace(FIRST, rank=1, host="b", gpu_id="gpu-1", free_bytes=24, free_host_bytes=7)
THIRD = replace(SECOND, rank=2, gpu_id="gpu-2", free_bytes=79)


def test_a_plan_is_made_for_the_smallest_gpu_and_the_smallest_machine():
    processes = processes_of((FIRST, SECOND, THIRD))
    assert (processes.count, processes.on_one_machine) == (3, 2)
    assert (processes.free_bytes, processes.free_host_bytes) == (24, 7)
    assert described((FIRST, SECOND, THIRD)) == "3 processes on 2 machines: 1 on a, 2 on b"


def test_equal_machines_train_together():
    refuse_unequal((FIRST, SECOND, THIRD))


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"problem": "no weights in /b"}, "rank 1 on b cannot train: no weights in /b"),
        ({"versions": FIRST.versions | {"torch": "2.9.1"}}, "rank 1 on b has torch 2.9.1: expected 2."),
        ({"versions": FIRST.versions | {"code": "0"}}, "rank 1 on b has code 0: expected "),
        ({"gpu": None, "gpu_id": None}, "rank 1 on b has no usable GPU, and rank 0 on a has a GPU, a H100: expected"),
        ({"base": "krea", "fingerprint": "0"}, "the base krea of rank 1 on b is another one: expected the same files"),
        ({"gpu_id": "gpu-0"}, "rank 0 on a and rank 1 on b have the same GPU, a H100: expected no more processes"),
    ],
)
def test_what_differs_between_machines_is_named_in_one_sentence(changes, found):
    with pytest.raises(ValueError) as error:
        refuse_unequal((FIRST, replace(SECOND, **changes), THIRD))
    assert_one_sentence(error.value, found)


@pytest.mark.parametrize("file", ["scheduler/scheduler_config.json", "transformer/config.json"])
def test_a_base_with_another_transformer_or_scheduler_is_another_base(tmp_path, file):
    base = linked_base(tmp_path / "base")
    assert ProcessInfo.here(1, base=base).fingerprint == FIRST.fingerprint
    replace_file(base / file, (base / file).read_bytes() + b"\n")
    assert ProcessInfo.here(1, base=base).fingerprint != FIRST.fingerprint
