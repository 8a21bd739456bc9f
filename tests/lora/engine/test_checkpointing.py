"""Every checkpointing option computes the same; each keeps less for the backward pass than the one before."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lora.base.transformer import spaced_blocks
from lora.engine.checkpointing import configure_blocks
from lora.training.learning.losses import loss_at
from tests.lora.engine.comparing import (
    SIGMAS,
    cosine,
    error,
    fused,
    loss_and_gradients,
    small,
    small_inputs,
    tiny_flux_with_lora,
    world_inputs,
)
from tests.tiny import LAYERS

BF16, FP32 = torch.bfloat16, torch.float32
LAYERS_AT_THE_END = 2 * 2 + 2  # of each block: nothing in the block needs their outputs again
OPTIONS = ("pointwise", "gelu", "blocks")


def checkpointed(transformer, recomputed, *, whole=0):
    configure_blocks(transformer, recomputed, are_compiled=False, whole=spaced_blocks(transformer, whole))
    return transformer


@pytest.mark.parametrize(("recomputed", "whole"), [*((option, 0) for option in OPTIONS), ("gelu", 2), ("nothing", 1)])
@pytest.mark.parametrize("dtype", [FP32, BF16])
def test_recomputing_gives_the_same_bits(recomputed, whole, dtype):
    inputs = small_inputs()
    found = loss_and_gradients(checkpointed(fused(small(dtype)), recomputed, whole=whole), inputs)
    kept = loss_and_gradients(fused(small(dtype)), inputs)
    assert found.loss == kept.loss
    assert all(torch.equal(found.gradients[name], gradient) for name, gradient in kept.gradients.items())


@pytest.mark.parametrize("recomputed", ["nothing", *OPTIONS])
def test_with_each_option_bf16_is_near_fp32_under_peft(recomputed):
    inputs = small_inputs()
    found = loss_and_gradients(checkpointed(fused(small(BF16)), recomputed), inputs)
    exact = loss_and_gradients(small(FP32), inputs)
    assert found.loss == pytest.approx(exact.loss, rel=1e-3)
    assert cosine(found, exact) >= 0.999


@pytest.mark.parametrize(("precision", "recomputed"), [("int8", "pointwise"), ("nf4", "gelu")])
def test_on_a_quantized_base_it_computes_what_peft_computes(precision, recomputed):
    inputs = world_inputs()
    found = loss_and_gradients(checkpointed(fused(tiny_flux_with_lora(precision)), recomputed), inputs)
    reference = loss_and_gradients(tiny_flux_with_lora(precision), inputs)
    assert found.loss == pytest.approx(reference.loss, rel=1e-5)
    assert error(found, reference) < 1e-5


class ProductCounter(TorchDispatchMode):
    """Counts products with a bias, of which each layer computes one in its forward pass."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.count += operation == torch.ops.aten.addmm.default and args[0].dim() == 1
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("recomputed", "whole", "expected"),
    [
        ("nothing", 0, 0),
        ("pointwise", 0, 0),
        ("gelu", 0, 2 * 2 + 2),
        ("blocks", 0, LAYERS),
        ("nothing", 2, LAYERS / 2),
        ("gelu", 2, LAYERS / 2 + 2 + 1),
    ],
)
def test_a_backward_pass_recomputes_only_the_layers_of_its_option(recomputed, whole, expected):
    """With "gelu" the layers before GELU: two in each double block, one in each single block. Of two whole blocks, one
    is double and one single."""
    transformer, inputs = checkpointed(fused(small(FP32)), recomputed, whole=whole), small_inputs()
    loss = loss_at(transformer, inputs.batch, noise=inputs.noise, sigmas=SIGMAS)
    with ProductCounter() as products:
        loss.backward()
    are_whole = recomputed == "blocks" or whole
    assert products.count == pytest.approx(expected, abs=LAYERS_AT_THE_END if are_whole else 0)
