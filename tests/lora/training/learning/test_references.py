"""What a training of edits computes: the loss with references is that of the stock transformer beside them, whatever
their sizes, and everything around the steps has the same references."""

import dataclasses

import numpy as np
import pytest
import torch
from peft import LoraConfig
from PIL import Image
from torch import Tensor

from lora.dataset.encoding import EncodedDataset
from lora.families.frozen_transformer import WeightPlacement, load_transformer
from lora.images.metadata import settings_in
from lora.images.size import Size
from lora.training.learning.adapter import add_lora
from lora.training.learning.batches import Batch
from lora.training.learning.losses import losses_at
from lora.training.learning.samples import SampleGenerator, SamplePrompt, references_of
from lora.training.learning.validation import validate
from lora.training.recipe.samples import SampleSettings
from tests.families import FIRST, KLEIN
from tests.lora.training.learning.test_each_family import CPU, NO_STOP, SIGMAS, trainable
from tests.lora.training.trainers import a_training, assert_same_checkpoint, run, stopped_in
from tests.random_klein import CHANNELS, klein_example
from tests.random_models import KLEIN_MODEL
from tests.tiny import a_recipe, all_layers, lora_parameters, noisy_image

LARGE, SMALL = (4, 6), (2, 3)
TWO = (LARGE, (3, 2))


def paired(*, seed, sizes=TWO, of=LARGE):
    """An example with references of these sizes."""
    generator = torch.Generator().manual_seed(500 + seed)
    references = tuple(torch.randn(CHANNELS, *size, generator=generator) for size in sizes)
    return dataclasses.replace(klein_example(seed=seed, height=2 * of[0], width=2 * of[1]), references=references)


def a_dataset(*examples):
    return EncodedDataset(examples, dropped=KLEIN_MODEL.prompt(seed=999))


def position_ids(image, height, width):
    """(image, row, column, 0), row by row."""
    ids = torch.zeros(height, width, 4)
    ids[..., 0] = image
    ids[..., 1] += torch.arange(height)[:, None]
    ids[..., 2] += torch.arange(width)
    return ids.flatten(0, 1)


def plain_loss(transformer, batch, noise) -> Tensor:
    """The textbook's loss: the clean tokens of the references behind the noisy ones, at 10, 20 and so on."""
    sigmas, tokens = SIGMAS[:, None, None, None], batch.prompt.tokens
    text = torch.zeros(tokens.shape[1], 4)
    text[:, 3] = torch.arange(tokens.shape[1])
    images = [(1 - sigmas) * batch.latents + sigmas * noise, *batch.references]
    predicted = transformer(
        hidden_states=torch.cat([KLEIN.pack(each) for each in images], dim=1),
        timestep=SIGMAS,
        encoder_hidden_states=tokens,
        txt_ids=text,
        img_ids=torch.cat([position_ids(10 * place, *each.shape[2:]) for place, each in enumerate(images)]),
        return_dict=False,
    )[0]
    target = KLEIN.pack(noise - batch.latents)
    return (predicted[:, : target.shape[1]] - target).square().mean()


def test_loss_and_gradients_with_references_are_those_of_a_plain_loop_with_stock_diffusers_and_peft():
    ours, stock = trainable(KLEIN_MODEL), KLEIN_MODEL.transformer()
    names = [name for name, _ in stock.named_modules() if name in all_layers(stock)]
    stock.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=names))
    theirs, mine = (
        {name.replace(".default", ""): each for name, each in lora_parameters(model).items()} for model in (stock, ours)
    )
    for name, parameter in theirs.items():
        parameter.data.copy_(mine[name])
    examples = [paired(seed=seed) for seed in range(2)]
    batch = Batch.of(examples, [each.prompt for each in examples])
    noise = torch.randn(batch.latents.shape, generator=torch.Generator().manual_seed(3))
    loss, expected = losses_at(ours, batch, noise=noise, sigmas=SIGMAS).mean(), plain_loss(stock, batch, noise)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    expected.backward()
    for name, parameter in theirs.items():
        assert (mine[name].grad - parameter.grad).norm() <= 1e-4 * parameter.grad.norm(), name
    without = losses_at(ours, dataclasses.replace(batch, references=()), noise=noise, sigmas=SIGMAS).mean()
    assert loss.item() != pytest.approx(without.item(), rel=1e-3)


def test_a_batch_has_examples_whose_references_have_equal_sizes_each_with_its_own():
    shapes = [(LARGE,), (SMALL,), TWO, ()]
    examples = [paired(seed=seed, sizes=shapes[seed % 4]) for seed in range(16)]
    batches = KLEIN_MODEL.batches(a_recipe(batch_size=2), a_dataset(*examples))
    known, seen = {tuple(each.prompt.tokens.flatten().tolist()): each for each in examples}, 0
    for index in range(8):
        batch = batches.noisy_batch(index).batch
        for place, tokens in enumerate(batch.prompt.tokens):
            example, seen = known[tuple(tokens.flatten().tolist())], seen + 1
            assert len(batch.references) == len(example.references)
            assert all(a[place].equal(b) for a, b in zip(batch.references, example.references, strict=True))
            part = batches.noisy_batch(index, part=slice(place, place + 1)).batch.references
            assert all(one[0].equal(every[place]) for one, every in zip(part, batch.references, strict=True))
        assert len(batch.latents) == 2
    assert seen == 16


def test_references_change_neither_the_order_of_examples_nor_their_noise():
    plain = [dataclasses.replace(paired(seed=seed), references=()) for seed in range(6)]
    found = [
        KLEIN_MODEL.batches(a_recipe(batch_size=2), a_dataset(*examples)).noisy_batch(index)
        for examples in (plain, [paired(seed=seed) for seed in range(6)])
        for index in range(6)
    ]
    for one, other in zip(found[:6], found[6:], strict=True):
        assert one.batch.latents.equal(other.batch.latents)
        assert one.noise.equal(other.noise)
        assert one.sigmas.equal(other.sigmas)


def test_a_resumed_training_of_edits_equals_an_uninterrupted_one(tmp_path):
    """With references of several sizes, dropped captions, a mask, validation and images of several sizes."""
    recipe = a_recipe(steps=4, caption_dropout_rate=0.3, lora_type="edit")
    first = KLEIN_MODEL.masked(paired(seed=0), 0.1)
    dataset = a_dataset(first, paired(seed=1), paired(seed=2, sizes=(SMALL,)), paired(seed=3, of=SMALL))
    given = {"model": KLEIN_MODEL, "dataset": dataset, "held_out": (paired(seed=100), paired(seed=101, sizes=(SMALL,)))}
    whole = run(a_training(tmp_path / "whole", recipe, **given)).last_checkpoint()
    stopped = stopped_in(a_training(tmp_path / "stopped", recipe, **given), 2).last_checkpoint()
    assert stopped.step < 4
    resumed = run(a_training(tmp_path / "resumed", recipe, checkpoint=stopped, **given)).last_checkpoint()
    assert_same_checkpoint(resumed, whole)


def test_validation_shows_held_out_images_beside_their_references():
    transformer, example = trainable(KLEIN_MODEL), paired(seed=9)
    other = dataclasses.replace(example, references=paired(seed=10).references)
    losses = [validate(transformer, (each,), step=1, batch_size=2).losses for each in (example, other, example)]
    assert losses[0] == losses[2]
    assert all(one != another for one, another in zip(losses[0], losses[1], strict=True))


def test_a_sample_beside_a_reference_is_the_stock_pipelines_and_names_it(tmp_path):
    pipeline, before, steps = KLEIN.pipeline(), noisy_image(96, 64), 4
    expected = pipeline(
        image=[before],
        prompt="make it red",
        max_sequence_length=KLEIN.family.text.length(pipeline),
        width=96,
        height=64,
        num_inference_steps=steps,
        guidance_scale=4.0,
        generator=torch.Generator().manual_seed(42),
    ).images[0]
    transformer = load_transformer(KLEIN.folder, WeightPlacement("fp32", False, CPU))
    add_lora(transformer, layers=all_layers(transformer), rank=2, seed=0)
    prompt, negative = (KLEIN.family.text.encode(pipeline, text) for text in ("make it red", ""))
    latents = KLEIN.family.latents.encode(pipeline.vae, pipeline.image_processor.preprocess(before))[0]
    sample = SamplePrompt("make it red", prompt, (latents,), Size(96, 64))
    settings = SampleSettings(("make it red",), 32, 0, steps, 4.0)
    SampleGenerator(transformer, KLEIN.folder, (sample,), settings, negative=negative, into=tmp_path).generate(
        0, stop=NO_STOP
    )
    path = tmp_path / "step-000000-1-seed-42-make-it-red.jpg"
    with Image.open(path) as image:
        difference = np.abs(np.asarray(image, dtype=float) - np.asarray(expected, dtype=float))
    assert difference.mean() < 3, "JPEG alone"
    assert settings_in(path)["references"] == ["reference-1-1.jpg"]
    assert references_of(settings_in(path), tmp_path) == ()
    (tmp_path / "reference-1-1.jpg").touch()
    assert references_of(settings_in(path), tmp_path) == (tmp_path / "reference-1-1.jpg",)
    assert references_of({"references": ["../secret.jpg", "step-1.jpg"]}, tmp_path) == ()


@pytest.mark.parametrize("tiny", [FIRST, KLEIN])
def test_only_a_family_whose_transformer_takes_references_has_a_preset_for_edits(tiny):
    assert ("edit" in tiny.family.presets) == tiny.family.transformer.takes_references
