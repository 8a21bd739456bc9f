"""Masks weight the loss at each latent: nothing is learned where the weight is 0, and nothing changes where it is 1."""

import functools
from dataclasses import replace

import pytest
import torch

from lora.engine.checkpointing import configure_blocks
from lora.engine.lora_layers import fuse_lora
from lora.training.learning.batches import Batch
from lora.training.learning.losses import losses_at, training_losses
from lora.training.learning.validation import validate
from tests.lora.training.trainers import a_training, assert_same_checkpoint, run, stopped_in
from tests.tiny import (
    HEIGHT,
    OUTSIDE,
    WIDTH,
    a_recipe,
    lora_parameters,
    masked,
    masked_dataset,
    randomize_lora,
    tiny_batches,
    tiny_dataset,
    tiny_example,
    tiny_lora_transformer,
    trained,
)

SIGMAS = torch.tensor([0.3, 0.8])


def transformer_on(engine):
    transformer = tiny_lora_transformer()
    randomize_lora(transformer)
    if engine != "plain":
        fuse_lora(transformer)
        configure_blocks(transformer, "pointwise", are_compiled=engine == "compiled", whole=frozenset())
    return transformer


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("engine", ["plain", "fused", pytest.param("compiled", marks=pytest.mark.long)])
def test_the_gradient_is_exactly_zero_outside_at_a_weight_of_0(engine, batch_size, monkeypatch):
    """Of the prediction; what the image shows there is still an input of it."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    transformer, predictions = transformer_on(engine), []
    transformer.proj_out.register_forward_hook(lambda _module, _args, output: predictions.append(output))
    examples = [masked(tiny_example(seed=seed), 0) for seed in range(batch_size)]
    batch = Batch.of(examples, [each.prompt for each in examples])
    noise = torch.randn(batch.latents.shape, generator=torch.Generator().manual_seed(3))
    loss = losses_at(transformer, batch, noise=noise, sigmas=SIGMAS[:batch_size]).mean()
    (gradient,) = torch.autograd.grad(loss, predictions, retain_graph=True)
    outside = OUTSIDE[::2, ::2].flatten().bool()
    assert not gradient[:, outside].any()
    assert gradient[:, ~outside].all()
    loss.backward()
    assert any(each.grad is not None and each.grad.any() for each in lora_parameters(transformer).values())


@pytest.mark.parametrize("batch_size", [1, 2])
def test_an_error_inside_counts_as_without_a_mask(batch_size):
    """The loss is not divided by the mean weight."""
    transformer, examples = transformer_on("plain"), [tiny_example(seed=seed) for seed in range(batch_size)]
    parts = []
    for change in (lambda each: each, lambda each: masked(each, 0), lambda each: replace(each, weights=OUTSIDE)):
        batch = Batch.of([change(each) for each in examples], [each.prompt for each in examples])
        noise = torch.randn(batch.latents.shape, generator=torch.Generator().manual_seed(3))
        parts.append(losses_at(transformer, batch, noise=noise, sigmas=SIGMAS[:batch_size]).detach())
    whole, inside, outside = parts
    assert torch.allclose(inside + outside, whole, rtol=1e-5)
    assert (inside > 0).all()


def lora_after(dataset, **changes):
    transformer = tiny_lora_transformer()
    steps = trained(transformer, a_recipe(steps=3, **changes), dataset)
    return {name: each.detach().clone() for name, each in lora_parameters(transformer).items()}, steps


@pytest.mark.parametrize("batch_size", [1, 2])
def test_weights_of_1_train_the_same_lora_to_the_last_bit_as_no_masks(batch_size):
    plain, steps = lora_after(tiny_dataset(3), batch_size=batch_size)
    ones, same_steps = lora_after(masked_dataset(1.0), batch_size=batch_size)
    assert all(torch.equal(plain[name], ones[name]) for name in plain)
    assert [step.loss for step in steps] == [step.loss for step in same_steps]
    some, _ = lora_after(masked_dataset(0.1), batch_size=batch_size)
    assert not all(torch.equal(plain[name], some[name]) for name in plain)


def test_an_image_without_a_mask_counts_in_full_beside_one_that_has_one():
    first, second = masked_dataset(0.1, count=2, only_first=True).examples
    batch = Batch.of([first, second], [first.prompt, second.prompt])
    assert torch.equal(batch.weights[0], first.weights)
    assert torch.equal(batch.weights[1], torch.ones(HEIGHT, WIDTH))
    assert Batch.of([second], [second.prompt]).weights is None


def test_in_accumulated_batches_every_image_counts_by_its_own_mask():
    recipe, dataset = a_recipe(steps=1, gradient_accumulation=2), masked_dataset(0.1, count=2, only_first=True)
    transformer, batches = transformer_on("plain"), tiny_batches(recipe, dataset)
    expected = torch.cat([training_losses(transformer, batches.noisy_batch(index)) for index in (0, 1)]).mean()
    (step,) = trained(transformer, recipe, dataset)
    assert step.loss == pytest.approx(expected.item(), rel=1e-5)


def test_a_resumed_training_with_masks_equals_an_uninterrupted_one(tmp_path):
    recipe, dataset = a_recipe(steps=4), masked_dataset(0.1)
    whole = run(a_training(tmp_path / "whole", recipe, dataset=dataset)).last_checkpoint()
    stopped = stopped_in(a_training(tmp_path / "stopped", recipe, dataset=dataset), 2).last_checkpoint()
    resumed = run(a_training(tmp_path / "resumed", recipe, dataset=dataset, checkpoint=stopped)).last_checkpoint()
    assert_same_checkpoint(resumed, whole)


def test_the_loss_on_held_out_images_is_weighted_too():
    example = tiny_example(seed=50)
    transformer = transformer_on("plain")
    whole, inside, outside = (
        validate(transformer, (each,), step=1, batch_size=2)
        for each in (example, masked(example, 0), replace(example, weights=OUTSIDE))
    )
    sums = [one + other for one, other in zip(inside.losses, outside.losses, strict=True)]
    assert sums == pytest.approx(list(whole.losses), rel=1e-5)
