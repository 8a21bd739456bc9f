"""The rungs of the ladder: each keeps less, and computes the same."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lora.engine.checkpointing import configure_blocks
from lora.training.learning.losses import loss_at
from tests.lora.engine.comparing import (
    SIGMAS,
    a_question,
    answer,
    cosine,
    error,
    fused,
    small,
    small_question,
    worn,
)
from tests.tiny import LAYERS

BF16, FP32 = torch.bfloat16, torch.float32
LAYERS_AT_THE_END = 2 * 2 + 2  # of each block, whose answers nothing in the block needs
RUNGS = ("pointwise", "gelu", "blocks")


def on_rung(transformer, rung):
    configure_blocks(transformer, rung, are_compiled=False)
    return transformer


@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize("dtype", [FP32, BF16])
def test_what_is_computed_again_is_the_same_bit_for_bit(rung, dtype):
    question = small_question()
    found, kept = answer(on_rung(fused(small(dtype)), rung), question), answer(fused(small(dtype)), question)
    assert found.loss == kept.loss
    assert all(torch.equal(found.gradients[name], gradient) for name, gradient in kept.gradients.items())


@pytest.mark.parametrize("rung", ["nothing", *RUNGS])
def test_on_each_rung_bf16_is_near_fp32_under_peft(rung):
    question = small_question()
    found, exact = answer(on_rung(fused(small(BF16)), rung), question), answer(small(FP32), question)
    assert found.loss == pytest.approx(exact.loss, rel=1e-3)
    assert cosine(found, exact) >= 0.999


@pytest.mark.parametrize(("precision", "rung"), [("int8", "pointwise"), ("nf4", "gelu")])
def test_on_a_rounded_base_too_it_is_what_peft_computes(precision, rung):
    question = a_question()
    found, plain = answer(on_rung(fused(worn(precision)), rung), question), answer(worn(precision), question)
    assert found.loss == pytest.approx(plain.loss, rel=1e-5)
    assert error(found, plain) < 1e-5


class Products(TorchDispatchMode):
    """Counts products with a bias: each layer makes one in its forward pass."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.count += operation == torch.ops.aten.addmm.default and args[0].dim() == 1
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("rung", "expected"), [("nothing", 0), ("pointwise", 0), ("gelu", 2 * 2 + 2), ("blocks", LAYERS)]
)
def test_a_backward_pass_computes_no_more_layers_again_than_its_rung_says(rung, expected):
    """With gelu those that lead into it: two in each double block, one in each single block."""
    transformer, question = on_rung(fused(small(FP32)), rung), small_question()
    loss = loss_at(transformer, question.batch, noise=question.noise, sigmas=SIGMAS)
    with Products() as products:
        loss.backward()
    assert products.count == pytest.approx(expected, abs=LAYERS_AT_THE_END if rung == "blocks" else 0)
