"""What a training computes in every family: the loss, its gradients, the target of preservation, masks, captions and
samples are those of the stock transformer, the stock pipeline and PEFT."""

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import LoraConfig
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from lora.engine.lora_layers import fuse_lora, lora_layers
from lora.families.frozen_transformer import WeightPlacement, load_transformer
from lora.training.learning.adapter import add_lora
from lora.training.learning.batches import Batch, NoiseSettings
from lora.training.learning.data_parallel import SingleProcess
from lora.training.learning.loop import take_step
from lora.training.learning.losses import add_gradients, losses_at, training_losses
from lora.training.learning.preservation import NeutralImages, Preservation, base_velocity
from lora.training.learning.samples import SampleGenerator, SamplePrompt
from lora.training.learning.state import TrainingState
from lora.training.learning.validation import LOSSES, validate
from lora.training.recipe.samples import SampleSettings
from lora.training.stop import Stop, Termination
from tests.families import FIRST, KLEIN, of_each_family
from tests.lora.training.trainers import a_log, a_training, assert_same_checkpoint, run, stopped_in
from tests.random_models import FIRST_MODEL, KLEIN_MODEL, with_each_model
from tests.tiny import SHIFT, a_recipe, all_layers, lora_parameters, randomize_lora

CPU = torch.device("cpu")
SIGMAS = torch.tensor([0.3, 0.8])
NO_STOP = Stop(a_log(), Termination(), minutes=None)
PACKS = {FIRST_MODEL.family.name: FIRST, KLEIN_MODEL.family.name: KLEIN}


def trainable(model, *, is_fused=True):
    transformer = model.lora_transformer()
    randomize_lora(transformer)
    if is_fused:
        fuse_lora(transformer)
    return transformer


def a_batch(model, *, weight=None):
    examples = [model.example(seed=seed) for seed in range(2)]
    if weight is not None:
        examples = [model.masked(each, weight) for each in examples]
    batch = Batch.of(examples, [each.prompt for each in examples])
    return batch, torch.randn(batch.latents.shape, generator=torch.Generator().manual_seed(3))


def positions(model, tokens, height, width):
    """Of text and image, as the pipelines of diffusers number them: (0, row, column) or (0, row, column, index)."""
    axes = 3 if model is FIRST_MODEL else 4
    text, image = torch.zeros(tokens, axes), torch.zeros(height, width, axes)
    image[..., 1] += torch.arange(height)[:, None]
    image[..., 2] += torch.arange(width)
    if axes == 4:
        text[:, 3] = torch.arange(tokens)
    return {"txt_ids": text, "img_ids": image.flatten(0, 1)}


def plain_loss(model, transformer, batch, noise):
    """The textbook's loss, with a stock transformer that has the LoRA of PEFT."""
    sigmas, pack = SIGMAS[:, None, None, None], PACKS[model.family.name].pack
    tokens = batch.prompt.tokens
    rows, columns = (side // model.family.latents.patch for side in batch.latents.shape[2:])
    inputs = positions(model, tokens.shape[1], rows, columns)
    if model is FIRST_MODEL:
        inputs |= {"pooled_projections": batch.prompt.pooled, "guidance": torch.ones(len(SIGMAS))}
    predicted = transformer(
        hidden_states=pack((1 - sigmas) * batch.latents + sigmas * noise),
        timestep=SIGMAS,
        encoder_hidden_states=tokens,
        return_dict=False,
        **inputs,
    )[0]
    return (predicted - pack(noise - batch.latents)).square().mean()


@with_each_model
def test_loss_and_gradients_are_those_of_a_plain_loop_with_stock_diffusers_and_peft(model):
    ours, stock = trainable(model), model.transformer()
    names = [name for name, _ in stock.named_modules() if name in all_layers(stock)]
    stock.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=names))
    theirs = {name.replace(".default", ""): each for name, each in lora_parameters(stock).items()}
    mine = {name.replace(".default", ""): each for name, each in lora_parameters(ours).items()}
    assert mine.keys() == theirs.keys()
    for name, parameter in theirs.items():
        parameter.data.copy_(mine[name])
    batch, noise = a_batch(model)
    loss, expected = losses_at(ours, batch, noise=noise, sigmas=SIGMAS).mean(), plain_loss(model, stock, batch, noise)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    expected.backward()
    for name, parameter in theirs.items():
        assert (mine[name].grad - parameter.grad).norm() <= 1e-4 * parameter.grad.norm(), name


@with_each_model
def test_accumulated_gradients_are_those_of_the_mean_over_all_samples(model):
    transformer = trainable(model, is_fused=False)
    recipe = a_recipe(gradient_accumulation=2, max_grad_norm=float("inf"))
    state, batches = TrainingState(transformer, recipe), model.batches(recipe)
    expected = torch.cat([training_losses(transformer, batches.noisy_batch(index)) for index in (0, 1)]).mean()
    gradients, found = torch.autograd.grad(expected, state.parameters), []
    state.optimizer.register_step_pre_hook(lambda *_: found.extend(each.grad.clone() for each in state.parameters))
    step = take_step(transformer, state, batches, recipe, process_group=SingleProcess())
    assert step.loss == pytest.approx(expected.item(), rel=1e-5)
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-7) for a, b in zip(found, gradients, strict=True))


class Copies(TorchDispatchMode):
    """Records for each copy from the host to another device whether the host goes on without waiting for it."""

    def __init__(self):
        super().__init__()
        self.without_waiting = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.aten._to_copy.default and args[0].device == CPU != kwargs.get("device", CPU):
            self.without_waiting.append(kwargs.get("non_blocking", False))
        if func is torch.ops.aten.copy_.default and args[1].device == CPU != args[0].device:
            self.without_waiting.append(any(args[2:]) or kwargs.get("non_blocking", False))
        return func(*args, **kwargs)


@with_each_model
def test_no_work_of_a_step_waits_for_the_device(model, monkeypatch):
    """Up to the norm of the gradients, preservation included. A device that holds no numbers refuses to be read, so the
    host can have waited only for a copy."""
    transformer, recipe = trainable(model).to("meta"), a_recipe(preservation=1.0, preservation_weight=2.0)
    state, batches = TrainingState(transformer, recipe), model.batches(recipe)
    preservation = preservation_of(model, transformer, recipe)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # it knows no such device, and is off here
    with Copies() as copies:
        for work in (
            lambda: add_gradients(
                transformer,
                batches,
                range(2),
                training_losses,
                modulation=state.modulation,
                process_group=SingleProcess(),
            ),
            lambda: preservation.add_gradients(0, process_group=SingleProcess()),
            state.clip,
        ):
            work()
    assert len(copies.without_waiting) >= 3 * 4, "three batches of latents, tokens, noise and sigmas"
    assert all(copies.without_waiting)


def preservation_of(model, transformer, recipe):
    """Preservation with blank images: what is not there cannot be generated."""
    prompts = tuple(model.example(seed=seed).prompt for seed in range(2))
    images = NeutralImages(PACKS[model.family.name].folder, prompts, negative=None, side=32)
    settings = NoiseSettings(recipe.sigma_rule, 0.0, 0.0, SHIFT, model.family.latents.patch)
    preservation = Preservation(transformer, recipe, settings, images, processes=1)
    preservation._is_generated = True
    return preservation


@with_each_model
@pytest.mark.parametrize("is_fused", [False, True])
def test_the_target_of_preservation_is_the_answer_of_the_base_bit_for_bit(model, is_fused):
    transformer, (batch, noise) = trainable(model, is_fused=is_fused), a_batch(model)
    inputs = {"sigmas": SIGMAS, "prompt": batch.prompt}
    with torch.no_grad():
        expected = model.family.transformer.predict_velocity(model.transformer(), noise, guidance=1.0, **inputs)
        with_lora = model.family.transformer.predict_velocity(transformer, noise, guidance=1.0, **inputs)
    assert base_velocity(transformer, noise, layers=lora_layers(transformer), **inputs).equal(expected)
    assert not with_lora.equal(expected)


@with_each_model
def test_what_a_mask_excludes_has_no_gradient_and_an_error_inside_counts_as_without_one(model):
    transformer, predictions = trainable(model), []
    transformer.proj_out.register_forward_hook(lambda _module, _args, output: predictions.append(output))
    batch, noise = a_batch(model, weight=0)
    inside = losses_at(transformer, batch, noise=noise, sigmas=SIGMAS)
    (gradient,) = torch.autograd.grad(inside.sum(), predictions[0])
    patch = model.family.latents.patch
    outside = model.outside()[::patch, ::patch].flatten().bool()
    assert not gradient[:, outside].any()
    assert gradient[:, ~outside].all()
    others = [
        losses_at(transformer, replace(batch, weights=weights), noise=noise, sigmas=SIGMAS)
        for weights in (None, 1 - batch.weights)
    ]
    assert torch.allclose(inside + others[1], others[0], rtol=1e-5)


@with_each_model
def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path, model):
    """With preservation, validation, a mask, dropped captions and captions of several lines."""
    recipe = a_recipe(steps=4, preservation=0.5, caption_dropout_rate=0.3)
    dataset = model.dataset_with_a_mask(0.1, count=3)
    several = replace(dataset.examples[1], other_prompts=(model.prompt(seed=4), model.prompt(seed=5)))
    dataset = replace(dataset, examples=(dataset.examples[0], several, dataset.examples[2]))
    given = {"model": model, "dataset": dataset, "held_out": (model.example(seed=100),)}
    whole = run(a_training(tmp_path / "whole", recipe, **given)).last_checkpoint()
    stopped = stopped_in(a_training(tmp_path / "stopped", recipe, **given), 2).last_checkpoint()
    assert stopped.step < 4
    resumed = run(a_training(tmp_path / "resumed", recipe, checkpoint=stopped, **given)).last_checkpoint()
    assert_same_checkpoint(resumed, whole)


@with_each_model
def test_validating_twice_gives_the_same_losses(model):
    first, again = (validate(trainable(model), (model.example(seed=9),), step=3, batch_size=2) for _ in range(2))
    assert first == again
    assert len(set(first.losses)) == LOSSES


@of_each_family
def test_a_sample_equals_the_image_of_the_stock_pipeline(tiny, tmp_path):
    """On the embedded base, with a real prompt, and with the empty negative prompt where the family needs one."""
    pipeline, side, steps, guidance = tiny.pipeline(), 64, 6, 4.0
    length = tiny.family.text.length(pipeline)
    expected = pipeline(
        prompt="a red circle",
        max_sequence_length=length,
        width=side,
        height=side,
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=torch.Generator().manual_seed(42),
    ).images[0]
    transformer = load_transformer(tiny.folder, WeightPlacement("fp32", False, CPU))
    add_lora(transformer, layers=all_layers(transformer), rank=2, seed=0)
    prompt, negative = (tiny.family.text.encode(pipeline, text) for text in ("a red circle", ""))
    settings = SampleSettings(("a red circle",), side, 0, steps, guidance)
    SampleGenerator(
        transformer,
        tiny.folder,
        (SamplePrompt("a red circle", prompt),),
        settings,
        negative=negative if tiny.family.text.has_negative else None,
        into=tmp_path,
    ).generate(0, stop=NO_STOP)
    with Image.open(tmp_path / "step-000000-1-seed-42-a-red-circle.jpg") as image:
        difference = np.abs(np.asarray(image, dtype=float) - np.asarray(expected, dtype=float))
    assert difference.mean() < 3, "JPEG alone"
