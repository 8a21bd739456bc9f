"""Modulation layers that answer ahead: the same bits as without, in every step, for far fewer visits."""

from dataclasses import dataclass

import pytest
import torch

from lora.engine.linears import HostLinear
from lora.flux import modulation
from lora.flux.frozen_transformer import WeightPlacement, load_transformer
from lora.flux.modulation import Conditions, PrecomputedModulation
from lora.training.learning.adapter import add_lora
from lora.training.learning.data_parallel import DataParallel, SingleProcess
from lora.training.learning.loop import take_step
from lora.training.learning.losses import losses_at
from lora.training.learning.state import TrainingState
from tests.tiny import (
    a_recipe,
    all_layers,
    lora_parameters,
    randomize_lora,
    tiny_batch,
    tiny_batches,
    tiny_dataset,
)

CPU = torch.device("cpu")
MODULATION_LAYERS = 2 * 2 + 2
ROWS = 32 * (2 * 2 * 6 + 2 * 3)  # outputs of all of them
SIGMAS = torch.tensor([0.1, 0.4, 0.7, 0.9])
EXAMPLES = 5  # so that the last batch of an epoch is smaller


@pytest.fixture
def three_ahead(monkeypatch):
    """Room for the answers to three batches of two, in fp32."""
    monkeypatch.setattr(modulation, "PRECOMPUTED_BYTES", 3 * 2 * ROWS * 4 + 1)


@pytest.fixture
def visits(monkeypatch):
    """The layers whose weights visited the device, one entry a visit."""
    seen, whole = [], HostLinear.visiting
    monkeypatch.setattr(HostLinear, "visiting", lambda layer, device: (seen.append(layer), whole(layer, device))[1])
    return seen


@dataclass
class Training:
    """A training that can be taken step by step."""

    transformer: torch.nn.Module
    state: TrainingState
    losses: list[float]

    def go(self, steps, recipe, *, team=None):
        batches = tiny_batches(recipe, tiny_dataset(EXAMPLES))
        for _ in range(steps):
            self.losses.append(
                take_step(self.transformer, self.state, batches, recipe, team=team or SingleProcess()).loss
            )
        return self

    def all(self):
        """Losses and weights, as they are now."""
        return self.losses, {name: each.detach() for name, each in lora_parameters(self.transformer).items()}


def a_training(base, recipe, *, on_host=True, precision="fp32", checkpointing=False):
    """With a LoRA that does something on every layer, those of modulation among them."""
    transformer = load_transformer(base, WeightPlacement(precision, on_host, CPU))
    add_lora(transformer, layers=all_layers(transformer), rank=recipe.lora_rank, seed=0)
    randomize_lora(transformer)
    if checkpointing:
        transformer.enable_gradient_checkpointing()
    return Training(transformer, TrainingState(transformer, recipe), [])


def assert_same(one, other):
    (losses, weights), (other_losses, other_weights) = one.all(), other.all()
    assert losses == other_losses
    assert weights.keys() == other_weights.keys()
    assert [name for name in weights if not torch.equal(weights[name], other_weights[name])] == []


def layers_on_host(transformer):
    return [layer for layer in transformer.modules() if isinstance(layer, HostLinear)]


@pytest.mark.usefixtures("three_ahead")
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_training_with_answers_ahead_has_the_bits_of_one_with_all_weights_on_the_device(
    base, precision, checkpointing
):
    """Over several fillings, with batches of several sizes, dropped captions, and a LoRA on every layer."""
    recipe = a_recipe(steps=3, gradient_accumulation=2, caption_dropout_rate=0.5)
    found = a_training(base, recipe, precision=precision, checkpointing=checkpointing)
    expected = a_training(base, recipe, on_host=False, precision=precision, checkpointing=checkpointing)
    assert_same(found.go(3, recipe), expected.go(3, recipe))


@pytest.mark.usefixtures("three_ahead")
def test_weights_visit_the_device_once_for_all_batches_that_there_is_room_for(base, visits):
    recipe = a_recipe(steps=7)
    training = a_training(base, recipe, checkpointing=True).go(7, recipe)  # 7 batches: three fillings
    assert len(visits) == 3 * MODULATION_LAYERS
    assert set(visits) == set(layers_on_host(training.transformer))


def test_answers_take_no_more_than_their_share_but_one_batch_always_fits(base, monkeypatch):
    recipe = a_recipe()
    transformer = a_training(base, recipe).transformer
    batches = tiny_batches(recipe, tiny_dataset(4))
    for share, expected in ((10 * 2 * ROWS * 4, 10), (10 * 2 * ROWS * 4 - 1, 9), (1, 1)):
        monkeypatch.setattr(modulation, "PRECOMPUTED_BYTES", share)
        asked = []
        with PrecomputedModulation(transformer, batch_size=2).precomputed(
            7, lambda index, asked=asked: (asked.append(index), batches.conditions(index))[1], guidance=1.0
        ):
            assert sum(layer.answer.nbytes for layer in layers_on_host(transformer)) == 2 * ROWS * 4
        assert asked == list(range(7, 7 + expected))


def test_a_small_model_looks_no_further_ahead_than_is_of_use(base):
    transformer = a_training(base, a_recipe()).transformer
    asked, batches = [], tiny_batches(a_recipe(), tiny_dataset(4))
    with PrecomputedModulation(transformer, batch_size=2).precomputed(
        0, lambda index: (asked.append(index), batches.conditions(index))[1], guidance=1.0
    ):
        assert len(asked) == modulation.MAX_PRECOMPUTED_BATCHES


@pytest.mark.usefixtures("three_ahead")
def test_a_training_that_goes_on_in_the_midst_of_what_was_ahead_has_the_same_bits(base):
    recipe = a_recipe(steps=5)
    first, whole = a_training(base, recipe).go(2, recipe), a_training(base, recipe).go(5, recipe)
    resumed = a_training(base, recipe)
    resumed.state.restore(first.state.tensors(), first.state.values())
    resumed.losses += first.losses
    assert_same(resumed.go(3, recipe), whole)


@pytest.mark.usefixtures("three_ahead")
def test_a_step_that_is_skipped_leaves_the_others_as_they_are(base):
    recipe = a_recipe(steps=6)
    trainings = [a_training(base, recipe, on_host=on_host).go(1, recipe) for on_host in (True, False)]
    for training in trainings:
        parameter = training.state.parameters[0]
        handle = parameter.register_hook(lambda gradient: gradient * torch.nan)
        training.go(1, recipe)
        handle.remove()
        assert training.state.skipped == 1
        training.go(2, recipe)
    assert_same(*trainings)


@pytest.mark.usefixtures("three_ahead")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_of_several_has_the_answers_to_its_own_part(base, rank, monkeypatch):
    """Of batches of two, one each; the second process has nothing to do in the last of an epoch."""
    monkeypatch.setattr(
        DataParallel, "all_reduce_gradients", SingleProcess.all_reduce_gradients
    )  # alone: what is compared are its own gradients
    recipe, team = a_recipe(steps=4), DataParallel(rank=rank, size=2, batch_size=1)
    trainings = [a_training(base, recipe, on_host=on_host) for on_host in (True, False)]
    for training in trainings:
        training.go(2, recipe, team=team)
    assert_same(*trainings)


def test_only_what_was_asked_for_is_answered_ahead_and_then_weights_answer_again(base):
    recipe = a_recipe()
    transformer, batch = a_training(base, recipe).transformer, tiny_batch()
    ahead, noise = PrecomputedModulation(transformer, batch_size=4), torch.ones_like(batch.latents)
    other = Conditions(SIGMAS.flip(0), batch.prompt.pooled)

    def asked():
        with torch.no_grad():
            return losses_at(transformer, batch, noise=noise, sigmas=SIGMAS)

    plain = asked()
    with ahead.precomputed(0, {0: other, 1: Conditions(SIGMAS, batch.prompt.pooled)}.get, guidance=1.0):
        assert not torch.equal(asked(), plain)  # these are the answers to other sigmas
    assert torch.equal(asked(), plain)
    with ahead.precomputed(1, {}.get, guidance=1.0):
        assert torch.equal(asked(), plain)
    with pytest.raises(KeyboardInterrupt), ahead.precomputed(0, {}.get, guidance=1.0):
        raise KeyboardInterrupt
    assert torch.equal(asked(), plain)


def test_a_transformer_with_all_weights_on_the_device_looks_nowhere_ahead(base):
    transformer = a_training(base, a_recipe(), on_host=False).transformer
    with PrecomputedModulation(transformer, batch_size=2).precomputed(0, lambda _: pytest.fail("asked"), guidance=1.0):
        pass
