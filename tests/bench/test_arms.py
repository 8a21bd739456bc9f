"""Every arm can be looked at in the midst of its training, as what it would export, and does not notice."""

import pytest
import torch

from bench.arms import ARMS, settings_of, train_arm
from tests.tiny import SHIFT, lora_parameters, tiny_dataset, tiny_transformer

arms = pytest.mark.parametrize("arm", ARMS)


def trained(arm: str, *, steps: int = 4, at: tuple[int, ...]) -> dict[int, dict[str, torch.Tensor]]:
    """The weights as they are at some steps, and as they stay (0)."""
    transformer, found = tiny_transformer(), {}

    def take(step: int) -> None:
        found[step] = {name: value.detach().clone() for name, value in lora_parameters(transformer).items()}

    train_arm(arm, transformer, tiny_dataset(), shift=SHIFT, steps=steps, seed=1, at=frozenset(at), take=take)
    take(0)
    return found


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@arms
def test_the_last_look_is_at_what_is_exported(arm):
    found = trained(arm, at=(2, 4))
    assert list(found) == [2, 4, 0]
    assert_equal(found[4], found[0])


@arms
def test_looking_does_not_change_what_is_learned(arm):
    assert_equal(trained(arm, at=())[0], trained(arm, at=(1, 2, 3))[0])


def test_no_two_arms_are_set_or_end_alike():
    settings = [settings_of(arm) for arm in ARMS]
    assert all(one != other for index, one in enumerate(settings) for other in settings[:index])
    sums = [sum(value.sum().item() for value in trained(arm, at=())[0].values()) for arm in ARMS]
    assert len(set(sums)) == len(ARMS)
