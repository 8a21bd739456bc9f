"""Batches have each example once per epoch, one size each, and each image's own caption or none."""

from dataclasses import replace

import pytest
import torch

from lora.base.prompt import Prompt
from lora.dataset.encoding import EncodedDataset, Example
from lora.flux.latents import PATCH
from lora.training.learning.batches import Batches, NoiseSettings
from lora.training.learning.data_parallel import SingleProcess
from lora.training.learning.loop import take_step
from lora.training.learning.state import TrainingState
from lora.training.recipe.sigmas import SigmaRule
from tests.tiny import SHIFT, a_recipe, tiny_batches, tiny_example, tiny_lora_transformer, tiny_prompt

DROPPED = -1.0
MIDDLE = SigmaRule(0.0, 1.0, 0.0)


def numbered(index, *, height=4, width=6):
    """An example whose latents, tokens and pooled vector all equal its number."""
    number = float(index)
    return Example(
        torch.full((4, height, width), number),
        Prompt(torch.full((6, 8), number), torch.full((8,), number)),
        content=str(index),
    )


def numbered_dataset(*sizes):
    dropped = Prompt(torch.full((6, 8), DROPPED), torch.full((8,), DROPPED))
    return EncodedDataset(tuple(numbered(i, height=h, width=w) for i, (h, w) in enumerate(sizes)), dropped=dropped)


def batches_of(dataset, *, count, batch_size=2, dropout=0.0, seed=0):
    return [
        noisy_batch.batch
        for noisy_batch in noisy_batches_of(dataset, count=count, batch_size=batch_size, dropout=dropout, seed=seed)
    ]


def noisy_batches_of(dataset, *, count, batch_size=2, dropout=0.0, seed=0, rule=MIDDLE, offset_noise=0.0):
    noise_settings = NoiseSettings(rule, offset_noise, dropout, SHIFT, PATCH)
    batches = Batches(dataset, batch_size=batch_size, noise_settings=noise_settings, seed=seed)
    return [batches.noisy_batch(index) for index in range(count)]


def numbers(batch):
    return batch.latents.mean(dim=(1, 2, 3)).tolist()


def test_each_image_keeps_its_own_caption():
    """Trap 34: over three shuffled epochs of two sizes."""
    dataset = numbered_dataset(*[(4, 6)] * 5, *[(6, 4)] * 4)
    for batch in batches_of(dataset, count=3 * 5):
        assert torch.equal(batch.prompt.tokens.mean(dim=(1, 2)), batch.latents.mean(dim=(1, 2, 3)))
        assert torch.equal(batch.prompt.pooled.mean(dim=1), batch.latents.mean(dim=(1, 2, 3)))


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_a_repeated_image_is_used_as_often_in_each_epoch(batch_size):
    once = numbered_dataset(*[(4, 6)] * 4)
    dataset = replace(once, examples=(replace(once.examples[0], repeats=3), *once.examples[1:]))
    per_epoch = -(-6 // batch_size)
    batches = batches_of(dataset, count=2 * per_epoch, batch_size=batch_size)
    for epoch in (batches[:per_epoch], batches[per_epoch:]):
        assert sorted(number for batch in epoch for number in numbers(batch)) == [0, 0, 0, 1, 2, 3]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 16])
def test_each_image_is_used_once_per_epoch(batch_size):
    """Trap 40."""
    dataset = numbered_dataset(*[(4, 6)] * 5, *[(6, 4)] * 2)
    an_epoch = -(-5 // batch_size) + -(-2 // batch_size)
    batches = batches_of(dataset, count=2 * an_epoch, batch_size=batch_size)
    for epoch in (batches[:an_epoch], batches[an_epoch:]):
        assert sorted(number for batch in epoch for number in numbers(batch)) == [0, 1, 2, 3, 4, 5, 6]


def test_each_epoch_has_its_own_order():
    batches = batches_of(numbered_dataset(*[(4, 6)] * 12), count=4, batch_size=12)
    assert len({tuple(numbers(batch)) for batch in batches}) == 4


def test_a_batch_has_one_size():
    shapes = {batch.latents.shape for batch in batches_of(numbered_dataset(*[(4, 6), (6, 4)] * 3), count=4)}
    assert shapes == {(2, 4, 4, 6), (1, 4, 4, 6), (2, 4, 6, 4), (1, 4, 6, 4)}


def test_one_image_makes_batches_of_one():
    assert [numbers(batch) for batch in batches_of(numbered_dataset((4, 6)), count=3, batch_size=4)] == [[0.0]] * 3


def test_captions_are_dropped_at_the_given_rate():
    """Trap 33: within three standard deviations, T5 and CLIP together, and never as zeros."""
    batches = batches_of(numbered_dataset(*[(4, 6)] * 10), count=1000, batch_size=10, dropout=0.1)
    tokens = torch.cat([batch.prompt.tokens.mean(dim=(1, 2)) for batch in batches])
    pooled = torch.cat([batch.prompt.pooled.mean(dim=1) for batch in batches])
    assert torch.equal(tokens, pooled)
    assert (tokens == DROPPED).float().mean().item() == pytest.approx(0.1, abs=3 * (0.1 * 0.9 / 10_000) ** 0.5)


def test_captions_are_never_dropped_at_rate_0_and_always_at_rate_1():
    dataset = numbered_dataset(*[(4, 6)] * 10)
    never, always = (batches_of(dataset, count=50, batch_size=10, dropout=rate) for rate in (0.0, 1.0))
    assert not any((batch.prompt.pooled == DROPPED).any() for batch in never)
    assert all((batch.prompt.pooled == DROPPED).all() for batch in always)


def test_the_same_seed_gives_the_same_batches():
    """Trap 50."""
    dataset = EncodedDataset(tuple(tiny_example(seed=index) for index in range(9)), dropped=tiny_prompt(seed=99))
    first, again, other = (batches_of(dataset, count=6, dropout=0.5, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(a.latents, b.latents) for a, b in zip(first, again, strict=True))
    assert all(torch.equal(a.prompt.pooled, b.prompt.pooled) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a.latents, b.latents) for a, b in zip(first, other, strict=True))


def test_the_batch_of_a_step_does_not_depend_on_earlier_batches():
    """Trap 39: a training that resumes at step k has the same batches."""
    dataset = EncodedDataset(tuple(tiny_example(seed=index) for index in range(9)), dropped=tiny_prompt(seed=99))
    noise_settings = NoiseSettings(MIDDLE, 0.0, 0.5, SHIFT, PATCH)
    uninterrupted = Batches(dataset, batch_size=2, noise_settings=noise_settings, seed=1)
    expected = [uninterrupted.noisy_batch(index) for index in range(12)][11]
    found = Batches(dataset, batch_size=2, noise_settings=noise_settings, seed=1).noisy_batch(11)
    assert torch.equal(found.noise, expected.noise)
    assert torch.equal(found.sigmas, expected.sigmas)
    assert torch.equal(found.batch.latents, expected.batch.latents)
    assert torch.equal(found.batch.prompt.pooled, expected.batch.prompt.pooled)


def test_noise_is_new_for_every_sample_batch_and_epoch():
    """Trap 39."""
    noise = torch.cat([each.noise for each in noisy_batches_of(numbered_dataset((4, 6), (4, 6)), count=6)])
    assert len({sample.sum().item() for sample in noise}) == 12


def test_the_parts_of_a_batch_make_up_the_batch():
    """Trap 39: several processes have the same noise as one."""
    dataset = numbered_dataset(*[(4, 6)] * 5)
    batches = Batches(dataset, batch_size=4, noise_settings=NoiseSettings(MIDDLE, 0.01, 0.5, SHIFT, PATCH), seed=0)
    for index in (0, 1):
        whole = batches.noisy_batch(index)
        parts = [batches.noisy_batch(index, part=slice(start, start + 2)) for start in (0, 2)]
        parts = [part for part in parts if part is not None]
        assert torch.equal(torch.cat([part.noise for part in parts]), whole.noise)
        assert torch.equal(torch.cat([part.sigmas for part in parts]), whole.sigmas)
        assert torch.equal(torch.cat([part.batch.latents for part in parts]), whole.batch.latents)
    assert batches.noisy_batch(1, part=slice(2, 4)) is None or batches.noisy_batch(0, part=slice(2, 4)) is None


def test_the_noise_is_standard_normal_and_has_an_offset_only_if_configured():
    dataset = numbered_dataset(*[(32, 32)] * 8)
    plain, moved = (
        torch.cat([each.noise for each in noisy_batches_of(dataset, count=20, batch_size=8, offset_noise=offset)])
        for offset in (0.0, 0.5)
    )
    assert plain.std().item() == pytest.approx(1, abs=0.01)
    means = moved.mean(dim=(2, 3))
    assert means.std().item() == pytest.approx(0.5, abs=0.05)
    assert plain.mean(dim=(2, 3)).std().item() == pytest.approx(1 / 32, abs=0.01)


def test_sigma_shifts_with_the_image_size_if_the_rule_has_no_mean():
    """Trap 1: by packed tokens."""
    rule = SigmaRule(None, 1e-6, 0.0)
    for side in (16, 64):
        (noisy_batch,) = noisy_batches_of(numbered_dataset((side, side)), count=1, rule=rule)
        assert torch.logit(noisy_batch.sigmas).item() == pytest.approx(SHIFT.mu((side // 2) ** 2), abs=1e-3)


@pytest.mark.parametrize("part", [slice(None), slice(1, 2), slice(2, 4)])
def test_conditions_equal_those_of_the_noisy_batch(part):
    """With batches of three and two samples, with dropped captions, and with empty parts."""
    noise_settings = NoiseSettings(SigmaRule(None, 1.0, 0.0), 0.1, 0.5, SHIFT, PATCH)
    batches = Batches(numbered_dataset(*[(4, 6)] * 5), batch_size=3, noise_settings=noise_settings, seed=0)
    for index in range(6):
        noisy_batch, conditions = batches.noisy_batch(index, part=part), batches.conditions(index, part=part)
        assert (noisy_batch is None) == (conditions is None)
        if noisy_batch is not None and conditions is not None:
            assert torch.equal(conditions.sigmas, noisy_batch.sigmas)
            assert torch.equal(conditions.pooled, noisy_batch.batch.prompt.pooled)


@pytest.mark.parametrize("requested", [(1, slice(0, 2)), (1, slice(0, 1)), (2, slice(0, 2))])
def test_a_prepared_batch_equals_the_same_batch_without_preparation(requested):
    """Another batch than the prepared one is computed anew."""
    index, part = requested
    dataset, noise_settings = numbered_dataset(*[(4, 6)] * 5), NoiseSettings(MIDDLE, 0.0, 0.5, SHIFT, PATCH)
    prepared, plain = (Batches(dataset, batch_size=2, noise_settings=noise_settings, seed=0) for _ in range(2))
    prepared.prepare(1, part=slice(0, 2))
    for _ in range(2):
        found, expected = prepared.noisy_batch(index, part=part), plain.noisy_batch(index, part=part)
        assert torch.equal(found.noise, expected.noise)
        assert torch.equal(found.sigmas, expected.sigmas)
        assert torch.equal(found.batch.latents, expected.batch.latents)


def test_a_step_prepares_the_next_batch_before_it_waits_for_the_device(monkeypatch):
    made, recipe = [], a_recipe(steps=3)
    transformer, batches = tiny_lora_transformer(), tiny_batches(recipe)
    original = Batches._make_batch
    monkeypatch.setattr(
        Batches, "_make_batch", lambda self, index, part: (made.append(index), original(self, index, part))[1]
    )
    state = TrainingState(transformer, recipe)
    take_step(transformer, state, batches, recipe, process_group=SingleProcess())
    assert made == [0, 1]
    take_step(transformer, state, batches, recipe, process_group=SingleProcess())
    assert made == [0, 1, 2]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_batches_for_a_gpu_are_in_pinned_memory():
    made = tiny_batches(a_recipe()).noisy_batch(0)
    tensors = (made.batch.latents, made.batch.prompt.tokens, made.batch.prompt.pooled, made.noise, made.sigmas)
    assert all(tensor.is_pinned() for tensor in tensors)


def several_captions(*, prompts=3, images=4):
    """Images whose prompts have their number and a tenth more each."""
    dataset = numbered_dataset(*[(4, 6)] * images)
    return replace(
        dataset,
        examples=tuple(
            replace(each, other_prompts=tuple(each.prompt.map(lambda t, n=n: t + n / 10) for n in range(1, prompts)))
            for each in dataset.examples
        ),
    )


def drawn_captions(batches):
    return [
        round(token - latent, 1)
        for batch in batches
        for token, latent in zip(batch.prompt.tokens.mean(dim=(1, 2)).tolist(), numbers(batch), strict=True)
    ]


def test_of_several_captions_of_an_image_one_is_drawn_for_each_sample():
    captions = drawn_captions(batches_of(several_captions(), count=300))
    assert set(captions) == {0.0, 0.1, 0.2}, "each is one of the image's own"
    assert all(150 < captions.count(each) < 250 for each in (0.0, 0.1, 0.2))


def test_the_caption_of_a_sample_depends_on_the_seed_and_the_step_only():
    dataset = several_captions()
    first, again, other = (drawn_captions(batches_of(dataset, count=20, seed=seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert drawn_captions(batches_of(dataset, count=40, seed=1))[: len(first)] == first


def test_several_captions_change_neither_sigma_nor_noise_nor_which_captions_are_dropped():
    one, several = numbered_dataset(*[(4, 6)] * 4), several_captions()
    for ours, theirs in zip(
        *(noisy_batches_of(dataset, count=12, dropout=0.5) for dataset in (several, one)), strict=True
    ):
        assert torch.equal(ours.sigmas, theirs.sigmas)
        assert torch.equal(ours.noise, theirs.noise)
        dropped = [batch.batch.prompt.pooled.mean(dim=1) == DROPPED for batch in (ours, theirs)]
        assert torch.equal(*dropped)


def test_what_modulation_depends_on_is_of_the_caption_that_is_drawn():
    batches = Batches(
        several_captions(), batch_size=2, noise_settings=NoiseSettings(MIDDLE, 0.0, 0.0, SHIFT, PATCH), seed=0
    )
    for index in range(8):
        expected = batches.noisy_batch(index).batch.prompt.pooled
        assert torch.equal(batches.conditions(index).pooled, expected)
