"""The tolerances of each precision, and the report of arms that missed theirs."""

import pytest
import torch

from bench.step_arms import Arm
from bench.step_proofs import LossAndGradients, as_lines, compare

REFERENCE = LossAndGradients(2.0, torch.tensor([1.0, 2.0, 3.0]))


def deviation(precision, loss, gradients):
    arm = Arm(f"ours {precision}", precision, "blocks", is_ours=True)
    return compare(arm, LossAndGradients(loss, torch.tensor(gradients)), REFERENCE)


@pytest.mark.parametrize(
    ("precision", "loss", "gradients", "expected"),
    [
        ("bf16", 2.001, [2.0, 4.0, 6.0], True),
        ("bf16", 2.003, [1.0, 2.0, 3.0], False),
        ("bf16", 2.0, [1.0, 2.0, 2.7], False),  # a cosine of 0.998
        ("int8", 2.1, [1.0, 2.0, 2.7], True),
        ("int8", 2.0, [1.0, 2.0, 2.0], False),  # 0.982
        ("nf4", 3.0, [3.0, 2.0, 1.0], True),
    ],
)
def test_each_precision_has_its_own_tolerance(precision, loss, gradients, expected):
    assert deviation(precision, loss, gradients).is_enough is expected


def test_an_arm_that_missed_its_tolerance_is_named_once():
    missed = deviation("bf16", 2.003, [1.0, 2.0, 3.0])
    lines = as_lines([missed, deviation("int8", 2.0, [1.0, 2.0, 3.0]), missed]).splitlines()
    assert lines[-1] == "outside the tolerance: ours bf16"
    assert [line for line in lines if "ours bf16" in line][:-1] == ["| ours bf16 | 0.150 % | 1.00000 |"]
