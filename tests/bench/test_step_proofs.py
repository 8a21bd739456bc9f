"""The precision of the reference, the tolerances of the others, and the report of arms that missed theirs."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from bench.random_flux import random_dataset, tiny_sizes
from bench.step_arms import Arm
from bench.step_loops import Inputs
from bench.step_proofs import LossAndGradients, as_lines, compare, reference_result, required_dtype

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


@contextmanager
def dtypes_of_linear_layers() -> Iterator[set[torch.dtype]]:
    """The dtypes in which linear layers answer inside the `with` block."""
    found = set()
    hook = register_module_forward_hook(
        lambda module, _inputs, output: found.add(output.dtype) if isinstance(module, nn.Linear) else None
    )
    try:
        yield found
    finally:
        hook.remove()


def test_every_linear_layer_of_the_reference_answers_in_fp32():
    sizes = tiny_sizes()
    with dtypes_of_linear_layers() as found:
        dataset = random_dataset(sizes, side=32, count=1, dtype=torch.bfloat16)
        reference_result(sizes, Inputs(dataset, batch_size=1, patch=sizes.family.latents.patch))
    assert found == {torch.float32}


def test_a_reference_that_answers_in_another_precision_is_refused():
    layer = nn.Linear(2, 2)
    refused = pytest.raises(TypeError, match=r"answers in torch\.bfloat16: expected torch\.float32")
    with required_dtype(torch.float32, layer), torch.autocast("cpu", torch.bfloat16), refused:
        layer(torch.ones(1, 2))
    assert layer.bfloat16()(torch.ones(1, 2).bfloat16()).dtype == torch.bfloat16  # outside nothing is required
