"""Weights are packed into a few large buffers, in which they keep their values."""

import copy

import pytest
import torch

from lora.engine import pinning
from lora.engine.pinning import RESERVE, has_room_to_pin, pack, pin_weights
from tests.tiny import without_gpu

MIB = 2**20


def a_module():
    """Ten layers of 4 MiB each and a bias; two of them share their weight."""
    module = torch.nn.Sequential(*(torch.nn.Linear(1024, 1024) for _ in range(11)))
    module[10].weight = module[0].weight
    return module.requires_grad_(False)


@pytest.fixture
def packed(monkeypatch):
    """A module before, the same module packed, and the bytes of its buffers."""
    monkeypatch.setattr(pinning, "BUFFER_BYTES", 16 * MIB)
    module, sizes = a_module(), []
    before = copy.deepcopy(module)
    pack(module.parameters(), lambda size: (sizes.append(size), torch.empty(size, dtype=torch.uint8))[1])
    return before, module, sizes


def test_packed_weights_compute_the_same(packed):
    before, module, _ = packed
    x = torch.randn(3, 1024)
    assert torch.equal(module(x), before(x))


def test_shared_weights_stay_shared(packed):
    _, module, _ = packed
    assert module[10].weight is module[0].weight


def test_weights_share_buffers_of_which_little_is_unused(packed):
    """Each of the buffers is a power of two, to which torch would round it up."""
    before, _, sizes = packed
    needed = sum(parameter.nbytes for parameter in before.parameters())
    assert sizes == [16 * MIB] * 3 + [8 * MIB]
    assert sum(sizes) < needed + 16 * MIB


def test_a_weight_that_is_larger_than_a_buffer_has_its_own(monkeypatch):
    monkeypatch.setattr(pinning, "BUFFER_BYTES", MIB)
    module, sizes = torch.nn.Linear(1024, 1024, bias=False), []
    pack(module.parameters(), lambda size: (sizes.append(size), torch.empty(size, dtype=torch.uint8))[1])
    assert sizes == [4 * MIB]


@without_gpu
def test_without_a_gpu_weights_stay_where_they_are():
    module = a_module()
    before = [parameter.data_ptr() for parameter in module.parameters()]
    pin_weights(module)
    assert [parameter.data_ptr() for parameter in module.parameters()] == before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_weights_are_pinned_for_a_gpu():
    module = a_module()
    pin_weights(module)
    assert all(parameter.is_pinned() for parameter in module.parameters())


def test_weights_are_pinned_only_if_enough_memory_stays_free():
    module = a_module()
    size = sum(each.nbytes for each in module.parameters())
    assert has_room_to_pin(module, free_bytes=size + RESERVE)
    assert not has_room_to_pin(module, free_bytes=size + RESERVE - 1)
