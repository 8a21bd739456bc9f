"""Blocks that stream: the same bits as blocks that stay, forward and back, with two slots for all."""

import pytest
import torch

from lora.engine.checkpointing import configure_blocks
from lora.engine.linears import HostLinear
from lora.engine.options import streamed_block_indices
from lora.engine.streaming import BlockStream, _Slot
from lora.flux.frozen_transformer import WeightPlacement, load_transformer
from lora.training.learning.adapter import add_lora
from lora.training.learning.losses import loss_at
from tests.lora.engine.comparing import SIGMAS, answer, fused, small_question
from tests.tiny import all_layers, randomize_lora

CPU = torch.device("cpu")
BLOCKS = 4
EVERY_WAY = [
    *(("fp32", False, count) for count in range(1, BLOCKS + 1)),
    *(("bf16", True, 3), ("int8", True, BLOCKS), ("nf4", False, BLOCKS), ("nf4", True, 2)),
]


def worn(base, precision, on_host, streamed, *, engine=fused):
    """With a LoRA that does something on each layer."""
    transformer = load_transformer(base, WeightPlacement(precision, on_host, CPU, streamed))
    add_lora(transformer, layers=all_layers(transformer), rank=4, seed=0)
    randomize_lora(transformer)
    transformer = engine(transformer)
    configure_blocks(transformer, "blocks", are_compiled=False)
    return transformer


@pytest.fixture
def arrivals(monkeypatch):
    """The blocks whose weights came to the device, one entry each time."""
    seen, receive = [], _Slot.receive
    monkeypatch.setattr(_Slot, "receive", lambda slot, home: (seen.append(home), receive(slot, home))[1])
    return seen


def places_of(arrivals, transformer):
    """The same as places of blocks among those that stream."""
    blocks = [*transformer.transformer_blocks, *transformer.single_transformer_blocks]
    layers = [set(block.modules()) for block in blocks]
    return [next(place for place, inner in enumerate(layers) if home.layers[0] in inner) for home in arrivals]


@pytest.mark.parametrize(("precision", "on_host", "streamed"), EVERY_WAY)
def test_loss_and_gradients_are_those_of_blocks_that_stay_bit_for_bit(base, precision, on_host, streamed):
    """Three times, as weights come in another order after the first pass."""
    question = small_question()
    found, expected = worn(base, precision, on_host, streamed), worn(base, precision, on_host, 0)
    for _ in range(3):
        one, other = answer(found, question), answer(expected, question)
        assert one.loss == other.loss
        assert all(torch.equal(one.gradients[name], gradient) for name, gradient in other.gradients.items())


@pytest.mark.parametrize("precision", ["bf16", "nf4"])
def test_pefts_own_layers_can_stream_too(base, precision):
    """In nf4 bitsandbytes keeps the codes themselves from the first forward pass: a block has to have the same slot
    when it is computed again."""
    found, expected = (worn(base, precision, False, count, engine=lambda each: each) for count in (BLOCKS, 0))
    one, other = answer(found, small_question()), answer(expected, small_question())
    assert one.loss == other.loss
    assert torch.equal(one.flat(), other.flat())


@pytest.mark.parametrize("broken_off_at", range(BLOCKS))
def test_a_pass_that_is_broken_off_does_not_mislead_the_next(base, broken_off_at):
    found, expected = worn(base, "fp32", False, BLOCKS), worn(base, "fp32", False, 0)
    blocks = [*found.transformer_blocks, *found.single_transformer_blocks]
    hook = blocks[broken_off_at].register_forward_hook(lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        answer(found, small_question())
    hook.remove()
    one, other = answer(found, small_question()), answer(expected, small_question())
    assert one.loss == other.loss
    assert torch.equal(one.flat(), other.flat())


@pytest.mark.parametrize("written", range(1, 60, 7))
def test_a_cancel_while_weights_come_does_not_mislead_the_next_pass(base, monkeypatch, written):
    """Wherever it comes: as the layers of a block get their weights, or as those that leave lose theirs."""
    found, expected = worn(base, "fp32", False, BLOCKS), worn(base, "fp32", False, 0)
    answer(found, small_question())
    with monkeypatch.context() as patch:
        cancel_at_write(patch, written)
        with pytest.raises(KeyboardInterrupt):
            answer(found, small_question())
    one, other = answer(found, small_question()), answer(expected, small_question())
    assert one.loss == other.loss
    assert torch.equal(one.flat(), other.flat())


def cancel_at_write(patch, number):
    """At the so-many-th time that a layer's weight is put elsewhere."""
    seen, data = [], torch.Tensor.data

    def write(tensor, value):
        seen.append(tensor)
        if len(seen) == number:
            raise KeyboardInterrupt
        data.__set__(tensor, value)

    patch.setattr(torch.nn.Parameter, "data", property(data.__get__, write), raising=False)


def test_a_step_fetches_each_block_once_each_way_but_for_the_two_that_are_there(base, arrivals):
    transformer = worn(base, "fp32", False, BLOCKS)
    answer(transformer, small_question())
    assert places_of(arrivals, transformer) == [0, 1, 2, 3, 1, 0]
    arrivals.clear()
    answer(transformer, small_question())
    assert places_of(arrivals, transformer) == [2, 3, 1, 0]


def test_pictures_that_follow_each_other_fetch_the_first_block_while_the_last_computes(base, arrivals):
    transformer, question = worn(base, "fp32", False, BLOCKS), small_question()
    with torch.no_grad():
        for _ in range(2):
            loss_at(transformer, question.batch, noise=question.noise, sigmas=SIGMAS)
    assert places_of(arrivals, transformer) == [0, 1, 2, 3, 0, 1, 2, 3, 0]


def test_the_next_blocks_weights_are_on_their_way_before_a_block_computes(base, arrivals):
    transformer, question = worn(base, "fp32", False, BLOCKS), small_question()
    seen = []
    for block in (*transformer.transformer_blocks, *transformer.single_transformer_blocks):
        block.register_forward_pre_hook(lambda *_: seen.append(len(arrivals)))
    with torch.no_grad():
        loss_at(transformer, question.batch, noise=question.noise, sigmas=SIGMAS)
    assert seen == [2, 3, 4, 5]


@pytest.mark.parametrize(("precision", "on_host"), [("bf16", False), ("int8", True), ("nf4", True)])
def test_on_the_device_are_two_slots_and_no_other_weights_of_blocks_that_stream(base, precision, on_host):
    transformer = worn(base, precision, on_host, BLOCKS)
    answer(transformer, small_question())
    layers = [layer for layer in transformer.modules() if isinstance(layer, torch.nn.Linear)]
    streamed = [
        layer for layer in layers if ".lora_" not in name_of(transformer, layer) and in_block(transformer, layer)
    ]
    rooms = {layer.weight.untyped_storage().data_ptr() for layer in streamed if layer.weight.numel()}
    assert len(rooms) == 2
    with_weights = [layer for layer in streamed if layer.weight.numel()]
    assert 0 < len(with_weights) < len(streamed)


def name_of(transformer, layer):
    return next(name for name, module in transformer.named_modules() if module is layer)


def in_block(transformer, layer):
    return "transformer_blocks." in name_of(transformer, layer) and not isinstance(layer, HostLinear)


@pytest.mark.parametrize(
    ("count", "places"), [(0, []), (1, [9]), (2, [4, 9]), (5, [1, 3, 5, 7, 9]), (10, list(range(10)))]
)
def test_blocks_that_stream_are_as_far_from_each_other_as_can_be(count, places):
    assert streamed_block_indices(count, of=10) == places


def test_a_stream_to_no_block_takes_nothing():
    layer = torch.nn.Linear(2, 2)
    assert not BlockStream([], CPU).takes(layer)
