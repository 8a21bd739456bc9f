"""Every checkpointing option computes the same; each keeps less for the backward pass than the one before."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lora.base.transformer import all_blocks, spaced_blocks
from lora.engine.checkpointing import configure_blocks
from lora.families.frozen_transformer import WeightPlacement, load_transformer
from lora.training.learning.losses import loss_at
from tests.lora.engine.comparing import (
    CPU,
    SIGMAS,
    cosine,
    error,
    fused,
    loss_and_gradients,
    small,
    small_inputs,
    with_lora,
)

BF16, FP32 = torch.bfloat16, torch.float32
LAYERS_AT_THE_END = 2 * 2 + 2  # of each block: nothing in the block needs their outputs again
OPTIONS = ("pointwise", "gelu", "blocks")
aten = torch.ops.aten
FACTORS = {aten.addmm.default: 2, aten.mm.default: 1, aten.bmm.default: 1}  # the place of the second factor


def checkpointed(transformer, recomputed, *, whole=0):
    configure_blocks(transformer, recomputed, are_compiled=False, whole=spaced_blocks(transformer, whole))
    return transformer


@pytest.mark.parametrize(("recomputed", "whole"), [*((option, 0) for option in OPTIONS), ("gelu", 2), ("nothing", 1)])
@pytest.mark.parametrize("dtype", [FP32, BF16])
def test_recomputing_gives_the_same_bits(model, recomputed, whole, dtype):
    inputs = small_inputs(model)
    found = loss_and_gradients(checkpointed(fused(small(dtype, model)), recomputed, whole=whole), inputs)
    kept = loss_and_gradients(fused(small(dtype, model)), inputs)
    assert found.loss == kept.loss
    assert all(torch.equal(found.gradients[name], gradient) for name, gradient in kept.gradients.items())


@pytest.mark.parametrize("recomputed", ["blocks", "gelu"])
def test_no_state_of_random_numbers_is_saved_for_a_block(model, monkeypatch, recomputed):
    """Blocks draw none, and the states of a GPU are read by the host."""
    transformer, inputs = checkpointed(fused(small(FP32, model)), recomputed), small_inputs(model)
    saved, read = [], torch.get_rng_state
    monkeypatch.setattr(torch, "get_rng_state", lambda: saved.append(1) or read())
    loss_and_gradients(transformer, inputs)
    assert not saved


@pytest.mark.parametrize("recomputed", ["nothing", *OPTIONS])
def test_with_each_option_bf16_is_near_fp32_under_peft(model, recomputed):
    inputs = small_inputs(model)
    found = loss_and_gradients(checkpointed(fused(small(BF16, model)), recomputed), inputs)
    exact = loss_and_gradients(small(FP32, model), inputs)
    assert found.loss == pytest.approx(exact.loss, rel=1e-3)
    assert cosine(found, exact) >= 0.999


@pytest.mark.parametrize(("precision", "recomputed"), [("int8", "pointwise"), ("nf4", "gelu")])
def test_on_a_quantized_base_it_computes_what_peft_computes(folder_and_inputs, precision, recomputed):
    folder, inputs = folder_and_inputs
    quantized, reference = (
        with_lora(load_transformer(folder, WeightPlacement(precision, False, CPU))) for _ in range(2)
    )
    found = loss_and_gradients(checkpointed(fused(quantized), recomputed), inputs)
    reference = loss_and_gradients(reference, inputs)
    assert found.loss == pytest.approx(reference.loss, rel=1e-5)
    assert error(found, reference) < 1e-5


class ProductCounter(TorchDispatchMode):
    """Counts the products of layers in a forward pass, whose second factor is a layer's weight, transposed."""

    def __init__(self, transformer):
        super().__init__()
        layers = [each for block in all_blocks(transformer) for each in block.modules() if isinstance(each, nn.Linear)]
        self._weights = {layer.weight.data_ptr() for layer in layers}
        self.count = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if operation in FACTORS:
            factor = args[FACTORS[operation]]
            self.count += factor.data_ptr() in self._weights and factor.stride(-2) == 1
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("recomputed", "share", "others"),
    [
        ("nothing", 0, 0),
        ("pointwise", 0, 0),
        ("gelu", 0, 2 * 2 + 2),
        ("blocks", 1, 0),
        ("nothing", 1 / 2, 0),
        ("gelu", 1 / 2, 2 + 1),
    ],
)
def test_a_backward_pass_recomputes_only_the_layers_of_its_option(model, recomputed, share, others):
    """With "gelu" the layers before the activation: two in each double block, one in each single block. If half of the
    blocks are whole, one is double and one single."""
    whole, expected = round(4 * share) % 4, share * model.layers + others
    transformer, inputs = checkpointed(fused(small(FP32, model)), recomputed, whole=whole), small_inputs(model)
    loss = loss_at(transformer, inputs.batch, noise=inputs.noise, sigmas=SIGMAS)
    with ProductCounter(transformer) as products:
        loss.backward()
    are_whole = recomputed == "blocks" or whole
    assert products.count == pytest.approx(expected, abs=LAYERS_AT_THE_END if are_whole else 0)
