"""Every arm can be measured during its training, with the weights it would export, without an effect on it."""

from dataclasses import replace

import pytest
import torch

from bench.arms import (
    ARMS,
    DEFAULT_ARMS,
    Material,
    arms_of,
    dropped_text_of_arm,
    settings_of,
    train_arm,
    word_of_arm,
)
from tests.tiny import SHIFT, lora_parameters, tiny_dataset, tiny_prompt, tiny_transformer

arms = pytest.mark.parametrize("arm", DEFAULT_ARMS)
OTHERS = ("0.25, images as target", "0.25 x 4, class word", "0.25 x 4, low sigma")


def trained(arm: str, *, steps: int = 4, at: tuple[int, ...]) -> dict[int, dict[str, torch.Tensor]]:
    """The weights at some steps, and the final weights as step 0."""
    transformer, found = tiny_transformer(), {}

    def record(step: int) -> None:
        found[step] = {name: value.detach().clone() for name, value in lora_parameters(transformer).items()}

    dataset = replace(tiny_dataset(), neutral=(tiny_prompt(seed=7),))
    asked = dataset.examples if word_of_arm(arm) is not None else ()
    material = Material(dataset, asked)
    train_arm(arm, transformer, material, shift=SHIFT, steps=steps, seed=1, at=frozenset(at), on_step=record)
    record(0)
    return found


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@arms
def test_the_last_step_has_the_exported_weights(arm):
    found = trained(arm, at=(2, 4))
    assert list(found) == [2, 4, 0]
    assert_equal(found[4], found[0])


@arms
def test_measuring_does_not_change_the_result(arm):
    assert_equal(trained(arm, at=())[0], trained(arm, at=(1, 2, 3))[0])


def test_all_arms_have_different_settings_and_results():
    settings = [settings_of(arm) for arm in ARMS]
    assert all(one != other for index, one in enumerate(settings) for other in settings[:index])
    sums = [sum(value.sum().item() for value in trained(arm, at=())[0].values()) for arm in (*DEFAULT_ARMS, *OTHERS)]
    assert len(set(sums)) == len(sums)


def test_a_dropped_caption_becomes_what_the_preset_says():
    assert [dropped_text_of_arm(arm) for arm in ("replicate", "subject", "style", "general")] == ["TOK", "TOK", "", ""]


def test_a_type_is_compared_with_the_plain_loop_and_the_public_recipe_alone():
    assert arms_of("style")[:3] == ("plain", "replicate", "style")
    assert not {"subject", "general", "0.25 x 1"} & set(arms_of("style"))
