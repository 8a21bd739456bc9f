"""Batches: each example once an epoch, in one size, with its own caption or none."""

import itertools

import pytest
import torch

from lora.dataset.encoding import EncodedDataset, Example
from lora.flux.prompt import Prompt
from lora.training.batches import endless_batches
from tests.tiny import tiny_example, tiny_prompt

DROPPED = -1.0


def numbered(index, *, height=4, width=6):
    """An example whose latents, tokens and pooled vector all say its number."""
    number = float(index)
    return Example(torch.full((4, height, width), number), Prompt(torch.full((6, 8), number), torch.full((8,), number)))


def numbered_dataset(*sizes):
    dropped = Prompt(torch.full((6, 8), DROPPED), torch.full((8,), DROPPED))
    return EncodedDataset(tuple(numbered(i, height=h, width=w) for i, (h, w) in enumerate(sizes)), dropped=dropped)


def batches_of(dataset, *, count, batch_size=2, dropout=0.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    endless = endless_batches(dataset, batch_size=batch_size, caption_dropout=dropout, generator=generator)
    return list(itertools.islice(endless, count))


def numbers(batch):
    return batch.latents.mean(dim=(1, 2, 3)).tolist()


def test_each_image_keeps_its_own_caption():
    """Trap 34: over three shuffled epochs of two sizes."""
    dataset = numbered_dataset(*[(4, 6)] * 5, *[(6, 4)] * 4)
    for batch in batches_of(dataset, count=3 * 5):
        assert torch.equal(batch.prompt.tokens.mean(dim=(1, 2)), batch.latents.mean(dim=(1, 2, 3)))
        assert torch.equal(batch.prompt.pooled.mean(dim=1), batch.latents.mean(dim=(1, 2, 3)))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 16])
def test_each_image_is_seen_once_an_epoch(batch_size):
    """Trap 40."""
    dataset = numbered_dataset(*[(4, 6)] * 5, *[(6, 4)] * 2)
    an_epoch = -(-5 // batch_size) + -(-2 // batch_size)
    batches = batches_of(dataset, count=2 * an_epoch, batch_size=batch_size)
    for epoch in (batches[:an_epoch], batches[an_epoch:]):
        assert sorted(number for batch in epoch for number in numbers(batch)) == [0, 1, 2, 3, 4, 5, 6]


def test_each_epoch_has_an_order_of_its_own():
    batches = batches_of(numbered_dataset(*[(4, 6)] * 12), count=4, batch_size=12)
    assert len({tuple(numbers(batch)) for batch in batches}) == 4


def test_a_batch_has_one_size():
    shapes = {batch.latents.shape for batch in batches_of(numbered_dataset(*[(4, 6), (6, 4)] * 3), count=4)}
    assert shapes == {(2, 4, 4, 6), (1, 4, 4, 6), (2, 4, 6, 4), (1, 4, 6, 4)}


def test_one_image_makes_batches_of_one():
    assert [numbers(batch) for batch in batches_of(numbered_dataset((4, 6)), count=3, batch_size=4)] == [[0.0]] * 3


def test_captions_are_dropped_at_the_rate_asked_for():
    """Trap 33: within three standard deviations, T5 and CLIP together, and never as zeros."""
    batches = batches_of(numbered_dataset(*[(4, 6)] * 10), count=1000, batch_size=10, dropout=0.1)
    tokens = torch.cat([batch.prompt.tokens.mean(dim=(1, 2)) for batch in batches])
    pooled = torch.cat([batch.prompt.pooled.mean(dim=1) for batch in batches])
    assert torch.equal(tokens, pooled)
    assert (tokens == DROPPED).float().mean().item() == pytest.approx(0.1, abs=3 * (0.1 * 0.9 / 10_000) ** 0.5)


def test_captions_are_never_or_always_dropped_at_the_ends():
    dataset = numbered_dataset(*[(4, 6)] * 10)
    never, always = (batches_of(dataset, count=50, batch_size=10, dropout=rate) for rate in (0.0, 1.0))
    assert not any((batch.prompt.pooled == DROPPED).any() for batch in never)
    assert all((batch.prompt.pooled == DROPPED).all() for batch in always)


def test_the_same_seed_deals_the_same_batches():
    """Trap 50."""
    dataset = EncodedDataset(tuple(tiny_example(seed=index) for index in range(9)), dropped=tiny_prompt(seed=99))
    first, again, other = (batches_of(dataset, count=6, dropout=0.5, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(a.latents, b.latents) for a, b in zip(first, again, strict=True))
    assert all(torch.equal(a.prompt.pooled, b.prompt.pooled) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a.latents, b.latents) for a, b in zip(first, other, strict=True))
