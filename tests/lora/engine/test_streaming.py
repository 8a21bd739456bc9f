"""Streamed blocks compute the same bits as others, forward and backward, with two slots for all."""

from contextlib import nullcontext

import pytest
import torch

from lora.engine.checkpointing import configure_blocks
from lora.engine.linears import HostLinear
from lora.engine.options import spaced_block_indices
from lora.engine.streaming import BlockStream, _HostWeights, _Slot
from lora.families.frozen_transformer import WeightPlacement, load_transformer
from lora.training.learning.adapter import add_lora
from lora.training.learning.forward_passes import as_in_a_step
from lora.training.learning.losses import loss_at
from tests.lora.engine.comparing import SIGMAS, fused, loss_and_gradients, small_inputs
from tests.tiny import all_layers, randomize_lora

CPU = torch.device("cpu")
BLOCKS = 4
PLACEMENTS = [
    *(("fp32", False, count) for count in range(1, BLOCKS + 1)),
    *(("bf16", True, 3), ("int8", True, BLOCKS), ("nf4", False, BLOCKS), ("nf4", True, 2)),
]


def with_lora(base, precision, on_host, streamed, *, engine=fused):
    """A transformer with a LoRA that is not zero on each layer."""
    transformer = load_transformer(base, WeightPlacement(precision, on_host, CPU, streamed))
    add_lora(transformer, layers=all_layers(transformer), rank=4, seed=0)
    randomize_lora(transformer)
    transformer = engine(transformer)
    configure_blocks(transformer, "blocks", are_compiled=False)
    return transformer


@pytest.fixture
def copies(monkeypatch):
    """The host weights that were copied to the device, one entry for each copy."""
    copied, load = [], _Slot.load
    monkeypatch.setattr(_Slot, "load", lambda slot, source: (copied.append(source), load(slot, source))[1])
    return copied


def indices_of(copies, transformer):
    """The indices of the blocks that the copies belong to."""
    blocks = [*transformer.transformer_blocks, *transformer.single_transformer_blocks]
    layers = [set(block.modules()) for block in blocks]
    return [next(index for index, inner in enumerate(layers) if source.layers[0] in inner) for source in copies]


@pytest.mark.parametrize(("precision", "on_host", "streamed"), PLACEMENTS)
def test_loss_and_gradients_are_those_of_unstreamed_blocks_bit_for_bit(model, base, precision, on_host, streamed):
    """Three times, as the order of the copies differs after the first pass."""
    inputs = small_inputs(model)
    found, expected = with_lora(base, precision, on_host, streamed), with_lora(base, precision, on_host, 0)
    for _ in range(3):
        one, other = loss_and_gradients(found, inputs), loss_and_gradients(expected, inputs)
        assert one.loss == other.loss
        assert all(torch.equal(one.gradients[name], gradient) for name, gradient in other.gradients.items())


@pytest.mark.parametrize("precision", ["bf16", "nf4"])
def test_pefts_own_layers_can_stream_too(model, base, precision):
    """bitsandbytes keeps a reference to the nf4 codes of the first forward pass, so a recomputed block must get the
    same slot."""
    found, expected = (with_lora(base, precision, False, count, engine=lambda each: each) for count in (BLOCKS, 0))
    one, other = loss_and_gradients(found, small_inputs(model)), loss_and_gradients(expected, small_inputs(model))
    assert one.loss == other.loss
    assert torch.equal(one.flat(), other.flat())


@pytest.mark.parametrize("interrupted_at", range(BLOCKS))
def test_an_interrupted_pass_does_not_affect_the_next(model, base, interrupted_at):
    found, expected = with_lora(base, "fp32", False, BLOCKS), with_lora(base, "fp32", False, 0)
    blocks = [*found.transformer_blocks, *found.single_transformer_blocks]
    hook = blocks[interrupted_at].register_forward_hook(lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        loss_and_gradients(found, small_inputs(model))
    hook.remove()
    one, other = loss_and_gradients(found, small_inputs(model)), loss_and_gradients(expected, small_inputs(model))
    assert one.loss == other.loss
    assert torch.equal(one.flat(), other.flat())


@pytest.mark.parametrize("write", range(1, 56, 7))
def test_a_cancel_while_weights_are_copied_does_not_affect_the_next_pass(model, base, monkeypatch, write):
    """Whenever it comes: as layers get their weights, or as the layers of the previous block lose theirs."""
    found, expected = with_lora(base, "fp32", False, BLOCKS), with_lora(base, "fp32", False, 0)
    loss_and_gradients(found, small_inputs(model))
    with monkeypatch.context() as patch:
        cancel_at_write(patch, write)
        with pytest.raises(KeyboardInterrupt):
            loss_and_gradients(found, small_inputs(model))
    one, other = loss_and_gradients(found, small_inputs(model)), loss_and_gradients(expected, small_inputs(model))
    assert one.loss == other.loss
    assert torch.equal(one.flat(), other.flat())


def cancel_at_write(patch, number):
    """Cancel at the given number of assignments to `data` of a layer's weight."""
    written, data = [], torch.Tensor.data

    def write(tensor, value):
        written.append(tensor)
        if len(written) == number:
            raise KeyboardInterrupt
        data.__set__(tensor, value)

    patch.setattr(torch.nn.Parameter, "data", property(data.__get__, write), raising=False)


def test_a_step_copies_each_block_once_per_pass_except_for_the_two_that_are_there(model, base, copies):
    transformer = with_lora(base, "fp32", False, BLOCKS)
    loss_and_gradients(transformer, small_inputs(model))
    assert indices_of(copies, transformer) == [0, 1, 2, 3, 1, 0]
    copies.clear()
    loss_and_gradients(transformer, small_inputs(model))
    assert indices_of(copies, transformer) == [2, 3, 1, 0]


@pytest.mark.parametrize("mode", [nullcontext, as_in_a_step])
def test_a_pass_without_a_backward_pass_copies_the_first_block_again_while_the_last_computes(model, base, copies, mode):
    """Also one that calls the blocks as a step does, with gradients enabled."""
    transformer, inputs = with_lora(base, "fp32", False, BLOCKS), small_inputs(model)
    with torch.no_grad(), mode(transformer):
        for _ in range(2):
            loss_at(transformer, inputs.batch, noise=inputs.noise, sigmas=SIGMAS)
    assert indices_of(copies, transformer) == [0, 1, 2, 3, 0, 1, 2, 3, 0]


def test_the_copy_of_the_next_block_begins_before_a_block_computes(model, base, copies):
    transformer, inputs = with_lora(base, "fp32", False, BLOCKS), small_inputs(model)
    seen = []
    for block in (*transformer.transformer_blocks, *transformer.single_transformer_blocks):
        block.register_forward_pre_hook(lambda *_: seen.append(len(copies)))
    with torch.no_grad():
        loss_at(transformer, inputs.batch, noise=inputs.noise, sigmas=SIGMAS)
    assert seen == [2, 3, 4, 5]


@pytest.mark.parametrize(("precision", "on_host"), [("bf16", False), ("int8", True), ("nf4", True)])
def test_the_device_has_two_slots_and_no_other_weights_of_streamed_blocks(model, base, precision, on_host):
    transformer = with_lora(base, precision, on_host, BLOCKS)
    loss_and_gradients(transformer, small_inputs(model))
    layers = [layer for layer in transformer.modules() if isinstance(layer, torch.nn.Linear)]
    streamed = [
        layer for layer in layers if ".lora_" not in name_of(transformer, layer) and in_block(transformer, layer)
    ]
    buffers = {layer.weight.untyped_storage().data_ptr() for layer in streamed if layer.weight.numel()}
    assert len(buffers) == 2
    with_weights = [layer for layer in streamed if layer.weight.numel()]
    assert 0 < len(with_weights) < len(streamed)


def name_of(transformer, layer):
    return next(name for name, module in transformer.named_modules() if module is layer)


def in_block(transformer, layer):
    return "transformer_blocks." in name_of(transformer, layer) and not isinstance(layer, HostLinear)


@pytest.mark.parametrize(
    ("count", "indices"), [(0, []), (1, [9]), (2, [4, 9]), (5, [1, 3, 5, 7, 9]), (10, list(range(10)))]
)
def test_streamed_blocks_are_spaced_as_evenly_as_possible(count, indices):
    assert spaced_block_indices(count, of=10) == indices


def test_a_stream_for_no_blocks_includes_no_layer():
    layer = torch.nn.Linear(2, 2)
    assert not BlockStream([], CPU).includes(layer)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_the_memory_of_a_slot_that_is_freed_during_a_copy_is_not_used_before_its_end():
    """The copy of 256 MiB takes longer than everything that follows here."""
    layer, gpu = torch.nn.Linear(2**13, 2**13, bias=False), torch.device("cuda")
    weights = _HostWeights(layer, is_pinned=True)
    weights.add(layer, torch.ones_like(layer.weight))
    slot = _Slot(weights.memory.nbytes, gpu)
    slot.load(weights)
    layer.weight.data = torch.empty(0, device=gpu)
    del slot
    later = torch.zeros(weights.memory.nbytes, dtype=torch.uint8, device=gpu)
    torch.cuda.synchronize()
    assert not later.any()
