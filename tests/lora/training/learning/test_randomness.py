"""Random generators by purpose do not affect each other."""

import pytest
import torch

from lora.training.learning.randomness import generator_for


def numbers(*arguments):
    return torch.randn(4, generator=generator_for(*arguments)).tolist()


def test_equal_arguments_give_equal_numbers():
    assert numbers(1, "noise", 3, 4) == numbers(1, "noise", 3, 4)


@pytest.mark.parametrize(
    "other", [(2, "noise", 3, 4), (1, "order", 3, 4), (1, "noise", 4, 3), (1, "noise", 34), (1, "noise", 3)]
)
def test_another_seed_purpose_or_number_gives_other_numbers(other):
    """Trap 39."""
    assert numbers(*other) != numbers(1, "noise", 3, 4)


def test_neighbouring_seeds_and_numbers_give_different_numbers():
    """Trap 39: no two of many steps begin with the same number."""
    assert len({numbers(seed, "noise", step)[0] for seed in range(10) for step in range(500)}) == 5000


def test_the_global_generator_is_not_changed():
    """Trap 47."""
    before = torch.get_rng_state()
    numbers(1, "noise")
    assert torch.equal(torch.get_rng_state(), before)


def test_the_numbers_are_the_same_on_every_machine_and_in_every_version():
    """So a checkpoint is resumed with the same noise by later versions."""
    assert numbers(42, "sample", 0, 0) == pytest.approx([-0.9901895, -1.1614958, 0.7603847, 1.9048227], abs=1e-6)
