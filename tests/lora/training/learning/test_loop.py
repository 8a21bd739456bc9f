"""A training step: the inputs of the model, the losses, the gradients, and the weights that it changes."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lora.base.prompt import Prompt
from lora.flux.latents import pack
from lora.flux.velocity import predict_velocity
from lora.training.learning.adapter import add_lora
from lora.training.learning.batches import Batch
from lora.training.learning.data_parallel import SingleProcess
from lora.training.learning.flow_matching import add_noise
from lora.training.learning.loop import take_step
from lora.training.learning.losses import loss_at
from lora.training.learning.state import TrainingState
from lora.training.recipe.optimizers import warm_up_steps
from tests.tiny import (
    LAYERS,
    a_recipe,
    all_layers,
    lora_parameters,
    randomize_lora,
    recorded_calls,
    tiny_batch,
    tiny_batches,
    tiny_lora_transformer,
    tiny_transformer,
    trained,
)

SIGMAS = torch.tensor([0.1234567, 0.4, 0.7, 0.9876543])


def single(batch, index):
    only = slice(index, index + 1)
    return Batch(batch.latents[only], Prompt(batch.prompt.tokens[only], batch.prompt.pooled[only]))


def noise_like(batch):
    return torch.randn(batch.latents.shape, generator=torch.Generator().manual_seed(3))


def train(transformer, **changes):
    return trained(transformer, a_recipe(**changes))


def snapshot(parameters):
    return {name: parameter.detach().clone() for name, parameter in parameters.items()}


def test_the_model_gets_the_sigma_with_which_the_noise_was_mixed():
    """Traps 5, 6, 7, 8: bit for bit, in fp32, between 0 and 1, with guidance 1."""
    transformer, batch = tiny_transformer(), tiny_batch()
    noise = noise_like(batch)
    with recorded_calls(transformer) as calls, torch.no_grad():
        loss_at(transformer, batch, noise=noise, sigmas=SIGMAS)
    assert torch.equal(calls[0]["timestep"], SIGMAS)
    assert calls[0]["timestep"].dtype == torch.float32
    assert torch.equal(calls[0]["hidden_states"], pack(add_noise(batch.latents, noise, SIGMAS)))
    assert torch.equal(calls[0]["guidance"], torch.ones(4))
    assert calls[0]["guidance"].dtype == torch.float32


def test_a_bf16_model_also_gets_sigmas_in_fp32():
    """Trap 7."""
    transformer, batch = tiny_transformer(dtype=torch.bfloat16), tiny_batch()
    noise = noise_like(batch)
    with recorded_calls(transformer) as calls, torch.no_grad():
        loss_at(transformer, batch, noise=noise, sigmas=SIGMAS)
    assert torch.equal(calls[0]["timestep"], SIGMAS)
    mixed = pack(add_noise(batch.latents, noise, SIGMAS)).bfloat16()
    assert torch.equal(calls[0]["hidden_states"], mixed)  # mixed in fp32, and only then cast


def test_the_error_of_one_step_along_the_velocity_is_sigma_times_the_root_of_the_loss():
    """Trap 10: the sampler and the loss interpret a prediction in the same way."""
    transformer, batch = tiny_lora_transformer(), single(tiny_batch(), 0)
    randomize_lora(transformer)
    noise, sigmas = noise_like(batch), SIGMAS[2:3]
    with torch.no_grad():
        loss = loss_at(transformer, batch, noise=noise, sigmas=sigmas)
        noisy = add_noise(batch.latents, noise, sigmas)
        velocity = predict_velocity(transformer, noisy, sigmas=sigmas, prompt=batch.prompt, guidance=1.0)
    guess = noisy - sigmas * velocity
    error = (guess - batch.latents).square().mean().sqrt()
    assert error.item() == pytest.approx(sigmas.item() * loss.item() ** 0.5, rel=1e-5)


def test_the_loss_of_a_batch_is_the_mean_of_its_samples():
    """Trap 17."""
    transformer, batch = tiny_transformer(), tiny_batch()
    noise = noise_like(batch)
    with torch.no_grad():
        together = loss_at(transformer, batch, noise=noise, sigmas=SIGMAS)
        alone = [
            loss_at(transformer, single(batch, i), noise=noise[i : i + 1], sigmas=SIGMAS[i : i + 1]) for i in range(4)
        ]
    assert together.item() == pytest.approx(torch.stack(alone).mean().item(), rel=1e-5)
    assert len({loss.item() for loss in alone}) == 4


def test_a_batch_in_training_has_a_sigma_for_each_sample():
    """Trap 17."""
    transformer = tiny_lora_transformer()
    with recorded_calls(transformer) as calls:
        train(transformer, batch_size=4, steps=1)
    assert calls[0]["timestep"].unique().numel() == 4


def test_training_does_not_change_the_base():
    """Trap 42."""
    transformer = tiny_lora_transformer()
    base = {name: value for name, value in transformer.named_parameters() if ".lora_" not in name}
    before = snapshot(base)
    train(transformer, steps=3)
    assert all(torch.equal(before[name], value) for name, value in base.items())
    assert not any(value.requires_grad or value.grad is not None for value in base.values())


def test_training_changes_every_tensor_of_the_lora():
    """Trap 43."""
    transformer = tiny_lora_transformer()
    before = snapshot(lora_parameters(transformer))
    train(transformer, steps=4)
    for name, parameter in lora_parameters(transformer).items():
        assert not torch.equal(parameter, before[name]), name
        assert parameter.isfinite().all()


def test_training_lowers_the_loss():
    transformer, batch = tiny_lora_transformer(), tiny_batch()
    noise = noise_like(batch)
    with torch.no_grad():
        before = loss_at(transformer, batch, noise=noise, sigmas=SIGMAS)
    train(transformer, steps=60, learning_rate=1e-2, batch_size=4)
    with torch.no_grad():
        after = loss_at(transformer, batch, noise=noise, sigmas=SIGMAS)
    assert after < 0.7 * before


def test_gradients_do_not_carry_over_to_the_next_step():
    transformer = tiny_lora_transformer()
    parameter = next(value for name, value in lora_parameters(transformer).items() if ".lora_B." in name)
    computed, accumulated = [], []
    parameter.register_hook(lambda gradient: computed.append(gradient.clone()))
    parameter.register_post_accumulate_grad_hook(lambda value: accumulated.append(value.grad.clone()))
    train(transformer, steps=4)
    assert len(accumulated) == 4
    assert all(torch.equal(a, b) for a, b in zip(computed, accumulated, strict=True))
    assert parameter.grad is None or not parameter.grad.any()


def test_each_step_returns_its_loss():
    steps = train(tiny_lora_transformer(), steps=5)
    assert len(steps) == 5
    assert all(step.is_finite and isinstance(step.loss, float) and step.loss > 0 for step in steps)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_accumulation_is_the_mean_over_all_its_samples(batch_size):
    """Trap 32: with one step of the optimizer, the learning rate and the average."""
    transformer = tiny_lora_transformer()
    randomize_lora(transformer)
    recipe = a_recipe(batch_size=batch_size, gradient_accumulation=3, max_grad_norm=float("inf"))
    state, batches = TrainingState(transformer, recipe), tiny_batches(recipe)
    parts = [batches.noisy_batch(index) for index in range(3)]
    losses = [
        loss_at(transformer, each.batch, noise=each.noise, sigmas=each.sigmas) * len(each.sigmas) for each in parts
    ]
    expected = sum(losses) / sum(len(each.sigmas) for each in parts)
    gradients = torch.autograd.grad(expected, state.parameters)
    found = []
    state.optimizer.register_step_pre_hook(lambda *_: found.extend(each.grad.clone() for each in state.parameters))
    step = take_step(transformer, state, batches, recipe, process_group=SingleProcess())
    assert step.loss == pytest.approx(expected.item(), rel=1e-5)
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-7) for a, b in zip(found, gradients, strict=True))
    assert (state.step, state.schedule.last_epoch, state.average.optimization_step) == (1, 1 + 1, 1), (
        "the schedule is entered one step later"
    )


def test_gradients_are_clipped_over_all_layers_together():
    """Trap 44."""
    transformer = tiny_lora_transformer()
    randomize_lora(transformer)
    recipe = a_recipe(max_grad_norm=1e-3)
    state = TrainingState(transformer, recipe)
    norms = []
    state.optimizer.register_step_pre_hook(
        lambda *_: norms.append(torch.cat([each.grad.flatten() for each in state.parameters]).norm().item())
    )
    take_step(transformer, state, tiny_batches(recipe), recipe, process_group=SingleProcess())
    assert norms == [pytest.approx(1e-3, rel=1e-3)]


def test_gradients_and_optimizer_state_are_fp32_on_a_bf16_base():
    """Traps 19, 20: the outputs of layers with a LoRA have the base's precision."""
    transformer, recipe = tiny_lora_transformer(dtype=torch.bfloat16), a_recipe()
    state, seen = TrainingState(transformer, recipe), set()
    for module in transformer.modules():
        if hasattr(module, "lora_A"):
            module.register_forward_hook(lambda _module, _inputs, output: seen.add(output.dtype))
    kept = []
    state.optimizer.register_step_pre_hook(lambda *_: kept.extend(each.grad.dtype for each in state.parameters))
    take_step(transformer, state, tiny_batches(recipe), recipe, process_group=SingleProcess())
    assert set(kept) == {torch.float32}
    assert seen == {torch.bfloat16}
    moments = [v for values in state.optimizer.state.values() for k, v in values.items() if k.startswith("exp")]
    assert {moment.dtype for moment in moments} == {torch.float32}


def test_the_same_seed_trains_the_same_lora():
    """Trap 50."""
    first, again, other = tiny_lora_transformer(), tiny_lora_transformer(), tiny_lora_transformer()
    for transformer, seed in ((first, 1), (again, 1), (other, 2)):
        train(transformer, seed=seed, caption_dropout_rate=0.5)
    first, again, other = lora_parameters(first), lora_parameters(again), lora_parameters(other)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


class Reads(TorchDispatchMode):
    """Records the tensors of which the host reads the value; on a GPU it waits for each of them."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            self.seen.append(args[0])
        return func(*args, **kwargs or {})


def test_the_host_waits_for_the_device_once_per_step(monkeypatch):
    """Once for all batches together, before the optimizer steps, as it may not step if gradients are not finite."""
    transformer, recipe = tiny_lora_transformer(), a_recipe(gradient_accumulation=3)
    state, batches = TrainingState(transformer, recipe), tiny_batches(recipe)
    noisy_batches = [batches.noisy_batch(index) for index in range(3)]  # in advance, as that reads values on the host
    monkeypatch.setattr(batches, "noisy_batch", lambda index, **_: noisy_batches[index])
    monkeypatch.setattr(batches, "prepare", lambda index, **_: None)
    monkeypatch.setattr(batches, "mean_sigma", lambda _: 0.5)  # of tensors on the host, too
    lists, original, scalar_reads = [], torch.Tensor.tolist, []
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: (lists.append(tensor), original(tensor))[1])
    with Reads() as reads:
        state.optimizer.register_step_pre_hook(lambda *_: scalar_reads.extend([*reads.seen]))
        take_step(transformer, state, batches, recipe, process_group=SingleProcess())
    assert len([each for each in lists if each.is_floating_point()]) == 1  # others are permutations of examples
    assert scalar_reads == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_is_reported_and_changes_nothing(value):
    transformer, recipe = tiny_lora_transformer(), a_recipe()
    state, batches = TrainingState(transformer, recipe), tiny_batches(recipe)
    before = snapshot(lora_parameters(transformer))
    state.parameters[-1].register_hook(lambda gradient: gradient * value)
    step = take_step(transformer, state, batches, recipe, process_group=SingleProcess())
    assert not step.is_finite
    assert step.loss > 0
    assert (state.step, state.skipped) == (1, 1)
    assert all(torch.equal(value, before[name]) for name, value in lora_parameters(transformer).items())


class Queued(TorchDispatchMode):
    """Counts operations, and the tensors in the lists that they take."""

    def __init__(self):
        super().__init__()
        self.operations, self.tensors = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.operations += 1
        self.tensors += sum(len(each) for each in args if isinstance(each, list | tuple))
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit"])
def test_what_the_host_queues_after_it_has_waited_does_not_grow_with_the_layers(optimizer):
    """The device waits for it. At rank 128, where adamw8bit takes all parameters of this transformer as one."""
    queued = {}
    for count in (4, LAYERS):
        transformer, recipe = tiny_transformer(), a_recipe(optimizer=optimizer, lora_rank=128)
        add_lora(transformer, layers=all_layers(transformer)[:count], rank=128, seed=0)
        state, batches = TrainingState(transformer, recipe), tiny_batches(recipe)
        take_step(transformer, state, batches, recipe, process_group=SingleProcess())
        with Queued() as queued[count]:
            state.update(is_finite=True)
    assert queued[LAYERS].operations == queued[4].operations
    assert queued[LAYERS].tensors == queued[4].tensors


def test_a_batch_is_copied_to_the_device_without_waiting_for_it():
    copies = []

    class Copies(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten._to_copy.default:
                copies.append(kwargs["non_blocking"])
            return func(*args, **kwargs or {})

    recipe = a_recipe()
    noisy_batch = tiny_batches(recipe).noisy_batch(0)
    with Copies():
        noisy_batch.to(torch.device("meta"))
    assert copies == [True] * 5, "latents, tokens, pooled, noise, sigmas"


def test_a_step_reports_its_learning_rate_gradient_norm_and_mean_sigma():
    transformer, recipe = tiny_lora_transformer(), a_recipe(gradient_accumulation=2)
    state, batches = TrainingState(transformer, recipe), tiny_batches(recipe)
    sigmas = torch.cat([batches.noisy_batch(index).sigmas for index in range(2)])
    step = take_step(transformer, state, batches, recipe, process_group=SingleProcess())
    assert step.learning_rate == pytest.approx(recipe.learning_rate / max(warm_up_steps(recipe.steps), 1))
    assert step.mean_sigma == pytest.approx(sigmas.mean().item())
    assert step.grad_norm > 0


def test_the_learning_rate_of_prodigy_is_the_one_that_it_estimated():
    transformer, recipe = tiny_lora_transformer(), a_recipe(optimizer="prodigy", steps=20)
    state, batches = TrainingState(transformer, recipe), tiny_batches(recipe)
    for _ in range(recipe.steps):
        step = take_step(transformer, state, batches, recipe, process_group=SingleProcess())
    group = state.optimizer.param_groups[0]
    assert group["d"] > group["d0"], "it has estimated one"
    assert step.learning_rate < state.learning_rate() == pytest.approx(group["d"] * group["lr"])
