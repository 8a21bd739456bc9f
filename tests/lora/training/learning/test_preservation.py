"""Preservation penalizes differences from the frozen base's predictions, on images that the base generated."""

import functools
from dataclasses import replace
from itertools import product

import pytest
import torch

from lora.base.transformer import spaced_blocks
from lora.engine.checkpointing import configure_blocks
from lora.engine.linears import HostLinear
from lora.engine.lora_layers import fuse_lora, lora_layers, without_lora
from lora.families.frozen_transformer import WeightPlacement, load_transformer
from lora.families.loading import load_encoders
from lora.families.registry import precomputed_modulation
from lora.flux.latents import PATCH, unpack
from lora.flux.prompt import encode_prompt
from lora.flux.velocity import predict_velocity
from lora.training.learning.adapter import add_lora
from lora.training.learning.batches import NoiseSettings
from lora.training.learning.data_parallel import SingleProcess
from lora.training.learning.loop import take_step
from lora.training.learning.losses import losses_at
from lora.training.learning.preservation import NeutralImages, Preservation, base_velocity, preservation_losses
from lora.training.learning.randomness import seed_for
from lora.training.learning.state import TrainingState
from lora.training.recipe.recipe import steps_that_preserve
from lora.training.stop import Stop, StopRequestedError, Termination
from tests.lora.training.trainers import a_log, a_training, assert_same_checkpoint, run, stopped_in, unseen_examples
from tests.tiny import (
    SHIFT,
    TINY_FLUX,
    TINY_TEXT_TOKENS,
    a_recipe,
    all_layers,
    lora_parameters,
    randomize_lora,
    recorded_calls,
    tiny_batch,
    tiny_batches,
    tiny_lora_transformer,
    tiny_pipeline,
    tiny_preservation,
    tiny_transformer,
)

CPU = torch.device("cpu")
SIGMAS = torch.tensor([0.2, 0.5, 0.8, 0.9])
NO_STOP = Stop(a_log(), Termination(), minutes=None)
STEPS = 6
ALL = range(100)  # steps that ask for every image


def noise_like(batch):
    return torch.randn(batch.latents.shape, generator=torch.Generator().manual_seed(3))


def with_lora_weights(transformer):
    """The transformer with a LoRA that changes its predictions."""
    randomize_lora(transformer)
    return transformer


def generated(transformer, recipe, process_group=None):
    preservation = tiny_preservation(transformer, recipe)
    assert preservation.generate(process_group or SingleProcess(), steps=ALL, stop=NO_STOP)
    return preservation


def latents_of(preservation):
    """The latents of the images by their names."""
    batches = (preservation._batches.examples(index) for index in range(len(preservation.images_for(ALL))))
    return {example.content: example.latents for batch in batches for example in batch}


def same(some, others):
    return some.keys() == others.keys() and all(torch.equal(some[name], others[name]) for name in some)


# The target


@pytest.mark.parametrize(
    ("precision", "on_host", "streamed"),
    [*product(("fp32", "bf16", "int8", "nf4"), (False,), (0,)), ("bf16", True, 0), ("int8", True, 6)],
)
@pytest.mark.parametrize("engine", ["plain", "fast"])
def test_the_target_is_the_prediction_of_the_base_without_a_lora_bit_for_bit(precision, on_host, streamed, engine):
    """In every precision, with both engines, wherever the weights are."""
    placement = WeightPlacement(precision, on_host, CPU, streamed)
    base, transformer = load_transformer(TINY_FLUX, placement), load_transformer(TINY_FLUX, placement)
    add_lora(transformer, layers=all_layers(transformer), rank=4, seed=0)
    randomize_lora(transformer, spread=1.0)
    if engine == "fast":
        fuse_lora(transformer)
    noisy = torch.randn(1, 16, 4, 6, generator=torch.Generator().manual_seed(1))
    inputs = {"sigmas": torch.tensor([0.5]), "prompt": real_prompt()}
    with torch.no_grad():
        expected = predict_velocity(base, noisy, guidance=1.0, **inputs)
        with_lora = predict_velocity(transformer, noisy, guidance=1.0, **inputs)
    assert base_velocity(transformer, noisy, layers=lora_layers(transformer), **inputs).equal(expected)
    assert not with_lora.equal(expected)


@pytest.mark.parametrize(("recomputed", "whole"), [("pointwise", 0), ("gelu", 2), ("blocks", 0)])
def test_neither_the_target_nor_the_gradient_depends_on_what_is_recomputed(recomputed, whole):
    """A block that is recomputed in the backward pass has its LoRA again by then."""
    found = {}
    for recomputes in (False, True):
        transformer, recipe = with_lora_weights(tiny_lora_transformer()), a_recipe(preservation=1.0)
        fuse_lora(transformer)
        if recomputes:
            configure_blocks(transformer, recomputed, are_compiled=False, whole=spaced_blocks(transformer, whole))
        loss = generated(transformer, recipe).add_gradients(0, process_group=SingleProcess())
        found[recomputes] = [loss, *(each.grad for each in lora_parameters(transformer).values())]
    assert found[False][0] > 0
    assert all(torch.equal(*pair) for pair in zip(*found.values(), strict=True))


@functools.cache
def real_prompt():
    encoders = load_encoders(TINY_FLUX, on=CPU)
    prompt = encode_prompt(encoders, "a red star in a meadow")
    return type(prompt)(prompt.tokens[None], prompt.pooled[None])


@pytest.mark.parametrize("is_fused", [False, True])
def test_the_lora_is_back_afterwards_and_still_trainable(is_fused):
    transformer, batch = with_lora_weights(tiny_lora_transformer()), tiny_batch()
    if is_fused:
        fuse_lora(transformer)
    inputs = {"noise": noise_like(batch), "sigmas": SIGMAS}
    with torch.no_grad():
        before = losses_at(transformer, batch, **inputs)
        with pytest.raises(RuntimeError, match="in the midst"), without_lora(lora_layers(transformer)):
            assert not losses_at(transformer, batch, **inputs).equal(before)
            raise RuntimeError("in the midst")
        assert losses_at(transformer, batch, **inputs).equal(before)
    assert all(each.requires_grad for each in lora_parameters(transformer).values())


def test_a_lora_that_changes_nothing_has_a_preservation_loss_of_0():
    transformer, recipe = tiny_lora_transformer(), a_recipe(preservation=1.0)
    step = take_step(
        transformer,
        TrainingState(transformer, recipe),
        tiny_batches(recipe),
        recipe,
        process_group=SingleProcess(),
        preservation=generated(transformer, recipe),
    )
    assert step.preservation_loss == 0


def test_no_gradient_flows_through_the_target():
    """The gradient is that for a constant target; otherwise the training would change the target too."""
    transformer, recipe = with_lora_weights(tiny_lora_transformer()), a_recipe(batch_size=3, preservation=1.0)
    layers = lora_layers(transformer)
    noisy_batch = generated(transformer, recipe)._batches.noisy_batch(0)
    with torch.no_grad():
        noisy = (1 - noisy_batch.sigmas.view(-1, 1, 1, 1)) * noisy_batch.batch.latents
        noisy += noisy_batch.sigmas.view(-1, 1, 1, 1) * noisy_batch.noise
        with without_lora(layers):
            target = predict_velocity(
                transformer, noisy, sigmas=noisy_batch.sigmas, prompt=noisy_batch.batch.prompt, guidance=1.0
            )
    found = predict_velocity(
        transformer, noisy, sigmas=noisy_batch.sigmas, prompt=noisy_batch.batch.prompt, guidance=1.0
    )
    parameters = list(lora_parameters(transformer).values())
    expected = torch.autograd.grad((found - target).square().mean(), parameters)
    ours = torch.autograd.grad(preservation_losses(transformer, noisy_batch, layers=layers).mean(), parameters)
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-8) for a, b in zip(ours, expected, strict=True))


# Which steps, and what they add


@pytest.mark.parametrize(
    ("share", "due"), [(0.5, [1, 3, 5, 7, 9]), (1.0, list(range(10))), (0.3, [3, 6, 9]), (0.05, [])]
)
def test_steps_that_preserve_are_spread_evenly(share, due):
    preservation = tiny_preservation(tiny_lora_transformer(), a_recipe(preservation=share))
    assert [step for step in range(10) if preservation.is_due(step)] == due
    assert preservation.steps_before(10) == len(due)


@pytest.mark.parametrize(("batch_size", "accumulation"), [(1, 1), (2, 3)])
def test_the_gradient_is_that_of_both_mean_losses_together(batch_size, accumulation):
    transformer = with_lora_weights(tiny_lora_transformer())
    recipe = a_recipe(
        batch_size=batch_size, gradient_accumulation=accumulation, preservation=1.0, max_grad_norm=float("inf")
    )
    preservation, layers = generated(transformer, recipe), lora_layers(transformer)
    state, batches = TrainingState(transformer, recipe), tiny_batches(recipe)
    images = [batches.noisy_batch(index) for index in range(accumulation)]
    neutral = [preservation._batches.noisy_batch(index) for index in range(accumulation)]
    losses = torch.cat([losses_at(transformer, each.batch, noise=each.noise, sigmas=each.sigmas) for each in images])
    others = torch.cat([preservation_losses(transformer, each, layers=layers) for each in neutral])
    gradients = torch.autograd.grad(losses.mean() + others.mean(), state.parameters)
    found = []
    state.optimizer.register_step_pre_hook(lambda *_: found.extend(each.grad.clone() for each in state.parameters))
    step = take_step(transformer, state, batches, recipe, process_group=SingleProcess(), preservation=preservation)
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-7) for a, b in zip(found, gradients, strict=True))
    assert step.loss == pytest.approx(losses.mean().item(), rel=1e-5)
    assert step.preservation_loss == pytest.approx(others.mean().item(), rel=1e-5)


def test_the_weight_multiplies_the_gradient_and_not_the_loss_that_is_reported():
    found = {}
    for weight in (1.0, 4.0):
        transformer = with_lora_weights(tiny_lora_transformer())
        preservation = generated(transformer, a_recipe(preservation=1.0, preservation_weight=weight))
        loss = preservation.add_gradients(0, process_group=SingleProcess())
        found[weight] = loss, [each.grad for each in lora_parameters(transformer).values()]
    (loss, gradients), (weighted_loss, weighted) = found[1.0], found[4.0]
    assert weighted_loss == loss
    assert all(torch.equal(4 * one, other) for one, other in zip(gradients, weighted, strict=True))


def test_rounding_errors_cost_no_step():
    assert steps_that_preserve(100, 0.29) == 29
    assert steps_that_preserve(1000, 0.001) == 1
    assert steps_that_preserve(999, 0.001) == 0


def test_each_preserving_step_uses_the_next_batches(monkeypatch):
    transformer, recipe = tiny_lora_transformer(), a_recipe(preservation=0.5, gradient_accumulation=2)
    preservation, used = generated(transformer, recipe), []
    original = preservation._batches.noisy_batch
    monkeypatch.setattr(
        preservation._batches, "noisy_batch", lambda index, **part: used.append(index) or original(index, **part)
    )
    for step in (1, 3, 5):
        preservation.add_gradients(step, process_group=SingleProcess())
    assert used == [0, 1, 2, 3, 4, 5]


def test_its_noise_differs_from_that_of_training():
    transformer, recipe = tiny_lora_transformer(), a_recipe(preservation=1.0)
    sigmas = [
        batches.noisy_batch(0).sigmas for batches in (generated(transformer, recipe)._batches, tiny_batches(recipe))
    ]
    assert not torch.equal(*sigmas)


def test_every_image_is_used_once_per_epoch_with_new_noise_each_time():
    transformer, recipe = tiny_lora_transformer(), a_recipe(batch_size=1, preservation=0.5, caption_dropout_rate=1.0)
    preservation = generated(transformer, recipe)
    batches = [preservation._batches.noisy_batch(index) for index in range(6)]
    seen = [each.batch.latents.sum().item() for each in batches]
    assert sorted(seen[:3]) == sorted(seen[3:])
    assert len(set(seen[:3])) == 3
    assert len({each.noise.sum().item() for each in batches}) == 6
    prompts = {each.batch.prompt.pooled.sum().item() for each in batches}
    assert len(prompts) == 3, "prompts of neutral images are not dropped"


def test_preservation_keeps_the_predictions_closer_to_the_base():
    """The same training changes the predictions for other prompts less with preservation."""
    moved = []
    for share in (0.0, 1.0):
        transformer = tiny_lora_transformer()
        recipe = a_recipe(steps=40, learning_rate=1e-2, batch_size=2, preservation=share)
        preservation = generated(transformer, a_recipe(preservation=1.0))
        state, batches = TrainingState(transformer, recipe), tiny_batches(recipe)
        for _ in range(recipe.steps):
            used = preservation if share else None
            take_step(transformer, state, batches, recipe, process_group=SingleProcess(), preservation=used)
        with torch.no_grad():
            neutral = [preservation._batches.noisy_batch(index) for index in range(100, 106)]
            losses = [preservation_losses(transformer, each, layers=lora_layers(transformer)) for each in neutral]
        moved.append(torch.cat(losses).mean().item())
    assert moved[1] < 0.5 * moved[0]


# The images


def test_the_images_are_generated_by_the_base_without_the_lora():
    """So a resumed training, whose LoRA has learned something, has the same images as before."""
    recipe = a_recipe(preservation=0.5)
    fresh = generated(tiny_lora_transformer(), recipe)
    later = generated(with_lora_weights(tiny_lora_transformer()), recipe)
    assert same(latents_of(fresh), latents_of(later))


def test_the_images_equal_those_of_the_stock_pipeline():
    """In 12 steps at guidance 3.5, each with its own seed; as unpacked latents."""
    transformer = load_transformer(TINY_FLUX, WeightPlacement("fp32", False, CPU))
    encoders = load_encoders(TINY_FLUX, on=CPU)
    add_lora(transformer, layers=all_layers(transformer), rank=2, seed=0)
    text, recipe = "a red star in a meadow", a_recipe(preservation=0.5)
    neutral = NeutralImages(TINY_FLUX, (encode_prompt(encoders, text),) * 2, negative=None, side=64)
    noise_settings = NoiseSettings(recipe.sigma_rule, 0.0, 0.0, SHIFT, PATCH)
    preservation = Preservation(transformer, recipe, noise_settings, neutral, processes=1)
    assert preservation.generate(SingleProcess(), steps=ALL, stop=NO_STOP)
    found = latents_of(preservation)
    for place in range(2):
        assert torch.equal(found[f"{place}"], stock_latents(text, seed_for(recipe.seed, "neutral image", place)))
    assert not found["0"].equal(found["1"])


def stock_latents(text, seed):
    packed = tiny_pipeline()(
        text,
        max_sequence_length=TINY_TEXT_TOKENS,
        width=64,
        height=64,
        num_inference_steps=12,
        guidance_scale=3.5,
        generator=torch.Generator().manual_seed(seed),
        output_type="latent",
    ).images
    return unpack(packed, height=8, width=8)[0]


def test_only_the_images_that_the_steps_ask_for_are_generated_and_they_are_the_same():
    """A short training does not wait for images that it never uses, and a resumed one has the same as before."""
    transformer, recipe = tiny_lora_transformer(), a_recipe(batch_size=1, preservation=0.5)
    every, some = latents_of(generated(transformer, recipe)), tiny_preservation(transformer, recipe)
    steps = range(2, 6)
    with recorded_calls(transformer) as calls:
        assert some.generate(SingleProcess(), steps=steps, stop=NO_STOP)
    asked = [some._batches.examples(index)[0] for index in (1, 2)]
    assert sorted(int(example.content) for example in asked) == some.images_for(steps)
    assert len(calls) == 2 * 12
    assert all(torch.equal(example.latents, every[example.content]) for example in asked)


def test_a_base_that_generates_nan_is_refused():
    transformer, recipe = tiny_lora_transformer(), a_recipe(preservation=0.5)
    transformer.proj_out.weight.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="the base generates NaN or infinity"):
        tiny_preservation(transformer, recipe).generate(SingleProcess(), steps=ALL, stop=NO_STOP)


def test_another_seed_has_other_images():
    transformer = tiny_lora_transformer()
    ours, theirs = (generated(transformer, a_recipe(preservation=0.5, seed=seed)) for seed in (1, 2))
    assert not same(latents_of(ours), latents_of(theirs))


class Sharing(SingleProcess):
    """One of two processes; the test adds up their parts itself."""

    size = 2

    def __init__(self, rank):
        self.rank, self.part_of_sum = rank, None

    def all_reduce(self, part):
        self.part_of_sum = part
        return part


def test_processes_share_the_images_and_together_have_those_of_one_process():
    transformer, recipe = tiny_lora_transformer(), a_recipe(preservation=0.5)
    alone, members = Sharing(0), [Sharing(0), Sharing(1)]
    alone.size = 1
    preservation = tiny_preservation(transformer, recipe)
    assert preservation.generate(alone, steps=ALL, stop=NO_STOP)
    for member in members:
        shared = tiny_preservation(transformer, recipe)
        assert not shared.generate(member, steps=ALL, stop=NO_STOP), "half of them are missing"
    assert torch.equal(members[0].part_of_sum + members[1].part_of_sum, alone.part_of_sum)


# A training with it


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path, accumulation):
    recipe = a_recipe(steps=STEPS, preservation=0.5, gradient_accumulation=accumulation)
    expected = run(a_training(tmp_path / "whole", recipe)).last_checkpoint()
    first = stopped_in(a_training(tmp_path / "first", recipe), 4)
    assert 0 < first.last_checkpoint().step < STEPS
    assert_same_checkpoint(
        run(a_training(tmp_path / "second", recipe, checkpoint=first.last_checkpoint())).last_checkpoint(), expected
    )


def test_validation_does_not_change_the_training(tmp_path):
    recipe = a_recipe(steps=STEPS, preservation=0.5)
    plain = run(a_training(tmp_path / "plain", recipe)).last_checkpoint()
    validated = run(a_training(tmp_path / "validated", recipe, held_out=unseen_examples())).last_checkpoint()
    assert same(validated.tensors("lora"), plain.tensors("lora"))
    assert validated.values["validation_results"]


def test_preservation_changes_the_lora_and_is_counted_in_the_summary(tmp_path):
    with_it, without = (
        run(a_training(tmp_path / f"{share}", a_recipe(steps=STEPS, preservation=share))) for share in (0.5, 0.0)
    )
    assert not same(with_it.last_checkpoint().tensors("lora"), without.last_checkpoint().tensors("lora"))
    assert with_it.trainer.result(None).summary.steps_preserving == 3
    assert without.trainer.result(None).summary.steps_preserving == 0


def test_without_preservation_the_model_is_called_only_in_the_steps(tmp_path):
    training = a_training(tmp_path, a_recipe(steps=STEPS))
    with recorded_calls(training.transformer) as calls:
        run(training)
    assert len(calls) == STEPS


def test_a_stop_request_while_images_are_generated_ends_a_training_before_its_first_step(tmp_path):
    training = a_training(tmp_path, a_recipe(steps=STEPS, preservation=0.5))
    training.request_stop()
    with recorded_calls(training.transformer) as calls, pytest.raises(StopRequestedError, match="a test asked"):
        training.trainer.run()
    assert len(calls) == 1, "it ends within a step of the first image"


def test_a_stop_request_while_images_are_generated_keeps_what_a_resumed_training_has_learned(tmp_path):
    recipe = a_recipe(steps=STEPS, preservation=0.5)
    first = stopped_in(a_training(tmp_path / "first", recipe), 4)
    training = a_training(tmp_path / "second", recipe, checkpoint=first.last_checkpoint())
    training.request_stop()
    run(training, stops="a test asked")
    assert training.trainer.result("a test asked").summary.steps_done == first.last_checkpoint().step


def test_the_log_and_the_summary_report_preservation(tmp_path, capsys):
    training = a_training(tmp_path, a_recipe(steps=STEPS, preservation=0.5))
    run(training)
    logged = capsys.readouterr().out
    assert "preservation: generating 3 images of neutral prompts with the base\n" in logged
    assert "preservation: generated 3 images in " in logged
    assert "preservation loss " in logged
    assert "3 steps with preservation." in training.trainer.result(None).summary.line()


@pytest.mark.parametrize(("share", "done"), [(0.5, STEPS), (0.2, STEPS - 1)])
def test_no_image_is_generated_if_no_preservation_step_is_left(tmp_path, share, done):
    """With a share of 0.2, only the fifth of six steps preserves."""
    recipe = a_recipe(steps=STEPS, preservation=share)
    first = (
        run(a_training(tmp_path / "first", recipe)) if done == STEPS else stopped_at(tmp_path / "first", recipe, done)
    )
    training = a_training(tmp_path / "second", recipe, checkpoint=first.last_checkpoint())
    with recorded_calls(training.transformer) as calls:
        run(training)
    assert len(calls) == STEPS - done


def stopped_at(folder, recipe, step):
    training = a_training(folder, replace(recipe, steps=step))
    run(training)
    return training


def test_modulation_on_the_host_is_precomputed_for_its_batches_bit_for_bit(monkeypatch):
    placement = WeightPlacement("fp32", True, CPU)
    transfers = []
    monkeypatch.setattr(
        HostLinear, "weight_on", lambda layer, device: transfers.append(1) or layer.host_weight.to(device)
    )
    gradients = []
    for is_precomputed in (True, False):
        transformer = load_transformer(TINY_FLUX, placement)
        add_lora(transformer, layers=all_layers(transformer), rank=2, seed=0)
        randomize_lora(transformer)
        recipe = a_recipe(preservation=1.0, batch_size=1)
        preservation = preservation_of_real_prompt(transformer, recipe)
        if not is_precomputed:
            preservation._modulation = precomputed_modulation(
                tiny_transformer(), batch_size=1
            )  # of a model without such layers
        transfers.clear()
        for step in range(3):
            preservation.add_gradients(step, process_group=SingleProcess())
        gradients.append([each.grad for each in lora_parameters(transformer).values()])
        layers = sum(isinstance(layer, HostLinear) for layer in transformer.modules())
        assert len(transfers) == (layers if is_precomputed else 2 * 3 * layers), (
            "once for all batches, or for each of both passes"
        )
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


def preservation_of_real_prompt(transformer, recipe):
    prompt = real_prompt()
    neutral = NeutralImages(TINY_FLUX, (type(prompt)(prompt.tokens[0], prompt.pooled[0]),), negative=None, side=32)
    noise_settings = NoiseSettings(recipe.sigma_rule, 0.0, 0.0, SHIFT, PATCH)
    preservation = Preservation(transformer, recipe, noise_settings, neutral, processes=1)
    assert preservation.generate(SingleProcess(), steps=ALL, stop=NO_STOP)
    return preservation
