"""Host memory in the plan: what is counted is what is allocated, and plans step down if it is short."""

import pytest
import torch

from lora.engine.linears import HostLinear
from lora.engine.streaming import HOST_WEIGHTS
from lora.families.frozen_transformer import WeightPlacement, load_transformer
from lora.training.memory.host import HOST_WORKSPACE, HostMemory, pinned_bytes
from lora.training.memory.weights import MemoryConfiguration
from tests.families import FIRST, TINY_BASES
from tests.lora.training.memory.measured import dimensions_of
from tests.lora.training.memory.test_configurations import CLIP, FLUX_DEV, GB, T5, VAE, configuration_of, plans_for

CPU = torch.device("cpu")
STREAMED = 3


def allocations(transformer):
    """The bytes of each allocation that would be pinned on a GPU."""
    memories = {id(each.memory): each.memory for each in map(host_weights, transformer.modules()) if each is not None}
    on_host = [layer.host_weight for layer in transformer.modules() if isinstance(layer, HostLinear)]
    return [tensor.untyped_storage().nbytes() for tensor in (*memories.values(), *on_host)]


def host_weights(layer):
    return vars(layer).get(HOST_WEIGHTS)


# Modulation layers on the host have the precision in which the model computes, which is fp32 for 8 and 4 bits on a CPU.
@pytest.mark.parametrize(
    ("tiny", "precision", "on_host", "streamed"),
    [(FIRST, "bf16", True, 0), (FIRST, "bf16", True, STREAMED),
     *((tiny, precision, False, STREAMED) for tiny in TINY_BASES for precision in ("bf16", "int8", "nf4"))],
)  # fmt: skip
def test_the_pinned_weights_take_what_is_predicted(tiny, precision, on_host, streamed):
    transformer = load_transformer(tiny.folder, WeightPlacement(precision, on_host, CPU, streamed))
    found = allocations(transformer)
    configuration = MemoryConfiguration(precision, "blocks", on_host, streamed)
    predicted = pinned_bytes(dimensions_of(transformer), configuration)
    assert predicted == sum(2 ** (size - 1).bit_length() for size in found)
    assert predicted > sum(found), "rounded up, as torch allocates pinned memory"


@pytest.mark.parametrize(("precision", "expected"), [("bf16", 20.4), ("int8", 10.2), ("nf4", 5.1)])
def test_all_blocks_of_flux_take_these_gigabytes_and_modulation_layers_7_7_more(precision, expected):
    blocks = pinned_bytes(FLUX_DEV, MemoryConfiguration(precision, "blocks", True, 57))
    modulation = pinned_bytes(FLUX_DEV, MemoryConfiguration(precision, "blocks", True))
    assert modulation / GB == pytest.approx(7.65, abs=0.01)
    assert (blocks - modulation) / GB == pytest.approx(expected, abs=0.03)
    assert pinned_bytes(FLUX_DEV, MemoryConfiguration(precision, "blocks", False)) == 0


def test_each_process_pins_weights_of_its_own_and_the_encoders_are_loaded_once():
    one, four = (plans_for(24, processes=count)[0].host for count in (1, 4))
    assert (four.training, four.encoders) == (4 * one.training, one.encoders)
    assert one.encoders == T5 + CLIP + VAE
    assert one.peak == one.encoders
    assert four.peak == four.training


@pytest.mark.parametrize(
    ("card", "host", "expected"),
    [
        (24, 12, ("bf16", "gelu", True, "some blocks whole")),
        (24, 9, ("int8", "nothing", False, "some blocks whole")),
        (12, 16, ("int8", "blocks", True, "streamed")),
        (12, 10, ("nf4", "gelu", True, "some blocks whole")),
        (12, 9, ("nf4", "blocks", False)),
        (8, 20, ("int8", "blocks", True, "streamed")),
        (8, 16, ("nf4", "blocks", True, "streamed")),
    ],
)
def test_with_less_host_memory_another_configuration_fits(card, host, expected):
    best, *fallbacks = plans_for(card, host=host)
    assert configuration_of(best) == expected
    assert all(plan.host.training <= host * GB for plan in (best, *fallbacks))


def test_if_host_memory_is_what_lacks_the_plan_is_the_one_that_needs_least_of_it():
    (only,) = plans_for(8, host=8)
    assert only.peak_bytes <= only.free_bytes
    assert not only.fits
    more = [plan.host.pinned for plan in plans_for(8) if plan.peak_bytes <= only.free_bytes]
    assert only.host.pinned <= min(more)


def test_more_host_memory_never_gives_a_worse_plan():
    for card in (8, 12, 24):
        every = [plans_for(card, host=host) for host in range(2, 40)]
        lengths, orders = [len(plans) for plans in every], [configuration_of(plans[0]) for plans in every]
        assert lengths == sorted(lengths)
        assert len(dict.fromkeys(orders)) == sum(a != b for a, b in zip(orders, [None, *orders], strict=False))


def test_the_line_has_the_host_memory_and_says_if_encoding_is_slow():
    assert ", host memory 9.9 GB of 64.0 GB free" in plans_for(24, host=64)[0].line()
    line = plans_for(80, host=8)[0].line()
    assert line.endswith("host memory 9.9 GB of 8.0 GB free; too little for the text encoders, so encoding is slow")
    assert "host memory" not in plans_for(80, on_gpu=False)[0].line()


def test_encoders_alone_change_no_plan():
    """They are mapped from their files: the kernel may drop them, and read them again."""
    assert HostMemory(pinned=0, workspace=HOST_WORKSPACE, encoders=10 * GB, free=HOST_WORKSPACE).fits
