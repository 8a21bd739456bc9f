"""Precomputed outputs of modulation layers: the same bits in every step, with far fewer copies of weights."""

from dataclasses import dataclass

import pytest
import torch

from lora.base import modulation
from lora.base.modulation import Conditions
from lora.engine.linears import HostLinear
from lora.families.frozen_transformer import WeightPlacement, load_transformer
from lora.families.registry import precomputed_modulation
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
ROWS = 32 * (2 * 2 * 6 + 2 * 3)  # output features of all of them
SIGMAS = torch.tensor([0.1, 0.4, 0.7, 0.9])
EXAMPLES = 5  # so that the last batch of an epoch is smaller


@pytest.fixture
def three_precomputed(monkeypatch):
    """Memory for the outputs of three batches of two, in fp32."""
    monkeypatch.setattr(modulation, "PRECOMPUTED_BYTES", 3 * 2 * ROWS * 4 + 1)


@pytest.fixture
def copies(monkeypatch):
    """The layers whose weights were copied to the device, one entry for each copy."""
    copied, weight_on = [], HostLinear.weight_on

    def record(layer, device):
        copied.append(layer)
        return weight_on(layer, device)

    monkeypatch.setattr(HostLinear, "weight_on", record)
    return copied


@dataclass
class Training:
    """A training that runs step by step."""

    transformer: torch.nn.Module
    state: TrainingState
    losses: list[float]

    def run(self, steps, recipe, *, process_group=None):
        batches = tiny_batches(recipe, tiny_dataset(EXAMPLES))
        for _ in range(steps):
            group = process_group or SingleProcess()
            step = take_step(self.transformer, self.state, batches, recipe, process_group=group)
            self.losses.append(step.loss)
        return self

    def result(self):
        """The losses and the current weights."""
        return self.losses, {name: each.detach() for name, each in lora_parameters(self.transformer).items()}


def a_training(base, recipe, *, on_host=True, precision="fp32", checkpointing=False):
    """With a LoRA that is not zero on every layer, including those of modulation."""
    transformer = load_transformer(base, WeightPlacement(precision, on_host, CPU))
    add_lora(transformer, layers=all_layers(transformer), rank=recipe.lora_rank, seed=0)
    randomize_lora(transformer)
    if checkpointing:
        transformer.enable_gradient_checkpointing()
    return Training(transformer, TrainingState(transformer, recipe), [])


def assert_same(one, other):
    (losses, weights), (other_losses, other_weights) = one.result(), other.result()
    assert losses == other_losses
    assert weights.keys() == other_weights.keys()
    assert [name for name in weights if not torch.equal(weights[name], other_weights[name])] == []


def layers_on_host(transformer):
    return [layer for layer in transformer.modules() if isinstance(layer, HostLinear)]


@pytest.mark.usefixtures("three_precomputed")
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_training_with_precomputed_outputs_has_the_bits_of_one_with_all_weights_on_the_device(
    base, precision, checkpointing
):
    """Precomputed several times, with batches of several sizes, dropped captions, and a LoRA on every layer."""
    recipe = a_recipe(steps=3, gradient_accumulation=2, caption_dropout_rate=0.5)
    found = a_training(base, recipe, precision=precision, checkpointing=checkpointing)
    expected = a_training(base, recipe, on_host=False, precision=precision, checkpointing=checkpointing)
    assert_same(found.run(3, recipe), expected.run(3, recipe))


@pytest.mark.usefixtures("three_precomputed")
def test_weights_are_copied_to_the_device_once_for_all_batches_that_fit(base, copies):
    recipe = a_recipe(steps=7)
    training = a_training(base, recipe, checkpointing=True).run(7, recipe)  # 7 batches: precomputed three times
    assert len(copies) == 3 * MODULATION_LAYERS
    assert set(copies) == set(layers_on_host(training.transformer))


def test_outputs_take_no_more_than_the_limit_except_for_one_batch(base, monkeypatch):
    recipe = a_recipe()
    transformer = a_training(base, recipe).transformer
    batches = tiny_batches(recipe, tiny_dataset(4))
    for limit, expected in ((10 * 2 * ROWS * 4, 10), (10 * 2 * ROWS * 4 - 1, 9), (1, 1)):
        monkeypatch.setattr(modulation, "PRECOMPUTED_BYTES", limit)
        requested = []
        with precomputed_modulation(transformer, batch_size=2).precomputed(
            7, lambda index, requested=requested: (requested.append(index), batches.conditions(index))[1], guidance=1.0
        ):
            assert sum(layer.output.nbytes for layer in layers_on_host(transformer)) == 2 * ROWS * 4
        assert requested == list(range(7, 7 + expected))


def test_a_small_model_precomputes_a_limited_number_of_batches(base):
    transformer = a_training(base, a_recipe()).transformer
    requested, batches = [], tiny_batches(a_recipe(), tiny_dataset(4))
    with precomputed_modulation(transformer, batch_size=2).precomputed(
        0, lambda index: (requested.append(index), batches.conditions(index))[1], guidance=1.0
    ):
        assert len(requested) == modulation.MAX_PRECOMPUTED_BATCHES


@pytest.mark.usefixtures("three_precomputed")
def test_a_training_that_resumes_within_precomputed_batches_has_the_same_bits(base):
    recipe = a_recipe(steps=5)
    first, uninterrupted = a_training(base, recipe).run(2, recipe), a_training(base, recipe).run(5, recipe)
    resumed = a_training(base, recipe)
    resumed.state.restore(first.state.tensors(), first.state.values())
    resumed.losses += first.losses
    assert_same(resumed.run(3, recipe), uninterrupted)


@pytest.mark.usefixtures("three_precomputed")
def test_a_skipped_step_does_not_affect_the_others(base):
    recipe = a_recipe(steps=6)
    trainings = [a_training(base, recipe, on_host=on_host).run(1, recipe) for on_host in (True, False)]
    for training in trainings:
        parameter = training.state.parameters[0]
        handle = parameter.register_hook(lambda gradient: gradient * torch.nan)
        training.run(1, recipe)
        handle.remove()
        assert training.state.skipped == 1
        training.run(2, recipe)
    assert_same(*trainings)


@pytest.mark.usefixtures("three_precomputed")
@pytest.mark.parametrize("rank", [0, 1])
def test_one_of_several_processes_has_the_outputs_for_its_own_samples(base, rank, monkeypatch):
    """Each process has one sample of a batch of two; the second has none in the last batch of an epoch."""
    # without the others: its own gradients are compared
    monkeypatch.setattr(DataParallel, "all_reduce_gradients", SingleProcess.all_reduce_gradients)
    recipe, process_group = a_recipe(steps=4), DataParallel(rank=rank, size=2, batch_size=1)
    trainings = [a_training(base, recipe, on_host=on_host) for on_host in (True, False)]
    for training in trainings:
        training.run(2, recipe, process_group=process_group)
    assert_same(*trainings)


def test_precomputed_outputs_are_used_only_inside_the_with_block(base):
    recipe = a_recipe()
    transformer, batch = a_training(base, recipe).transformer, tiny_batch()
    modulation_outputs, noise = precomputed_modulation(transformer, batch_size=4), torch.ones_like(batch.latents)
    other = Conditions(SIGMAS.flip(0), batch.prompt.pooled)

    def losses():
        with torch.no_grad():
            return losses_at(transformer, batch, noise=noise, sigmas=SIGMAS)

    expected = losses()
    with modulation_outputs.precomputed(0, {0: other, 1: Conditions(SIGMAS, batch.prompt.pooled)}.get, guidance=1.0):
        assert not torch.equal(losses(), expected)  # these are the outputs for other sigmas
    assert torch.equal(losses(), expected)
    with modulation_outputs.precomputed(1, {}.get, guidance=1.0):
        assert torch.equal(losses(), expected)
    with pytest.raises(KeyboardInterrupt), modulation_outputs.precomputed(0, {}.get, guidance=1.0):
        raise KeyboardInterrupt
    assert torch.equal(losses(), expected)


def test_a_transformer_with_all_weights_on_the_device_precomputes_nothing(base):
    transformer = a_training(base, a_recipe(), on_host=False).transformer
    with precomputed_modulation(transformer, batch_size=2).precomputed(0, lambda _: pytest.fail("asked"), guidance=1.0):
        pass
