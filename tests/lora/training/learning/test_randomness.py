"""Random numbers for one purpose disturb no other."""

import pytest
import torch

from lora.training.learning.randomness import generator_for


def drawn(*arguments):
    return torch.randn(4, generator=generator_for(*arguments)).tolist()


def test_equal_arguments_give_equal_numbers():
    assert drawn(1, "noise", 3, 4) == drawn(1, "noise", 3, 4)


@pytest.mark.parametrize(
    "other", [(2, "noise", 3, 4), (1, "order", 3, 4), (1, "noise", 4, 3), (1, "noise", 34), (1, "noise", 3)]
)
def test_another_seed_purpose_or_number_gives_others(other):
    """Trap 39."""
    assert drawn(*other) != drawn(1, "noise", 3, 4)


def test_neighbours_have_nothing_in_common():
    """Trap 39: no two of many steps begin alike."""
    assert len({drawn(seed, "noise", step)[0] for seed in range(10) for step in range(500)}) == 5000


def test_nobody_elses_random_numbers_are_touched():
    """Trap 47."""
    before = torch.get_rng_state()
    drawn(1, "noise")
    assert torch.equal(torch.get_rng_state(), before)


def test_the_numbers_are_the_same_on_every_machine_and_in_every_version():
    """A checkpoint of today goes on with the noise of today."""
    assert drawn(42, "sample", 0, 0) == pytest.approx([-0.9901895, -1.1614958, 0.7603847, 1.9048227], abs=1e-6)
