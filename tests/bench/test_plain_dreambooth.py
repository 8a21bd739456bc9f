"""The plain loop does what diffusers' script does at its defaults."""

import pytest
import torch
from diffusers import FluxTransformer2DModel

from bench.plain_dreambooth import add_plain_lora, plain_sigmas, train_plain
from tests.tiny import lora_parameters, recorded_calls, tiny_dataset, tiny_transformer


def plain_transformer(*, seed: int = 0) -> FluxTransformer2DModel:
    transformer = tiny_transformer()
    add_plain_lora(transformer, seed=seed)
    return transformer


def test_the_lora_is_on_the_342_layers_of_the_script():
    narrow = {"attention_head_dim": 16, "num_attention_heads": 1, "joint_attention_dim": 8, "pooled_projection_dim": 8}
    with torch.device("meta"):
        transformer = FluxTransformer2DModel(num_layers=19, num_single_layers=38, axes_dims_rope=(4, 4, 8), **narrow)
    add_plain_lora(transformer, seed=0)
    assert len(lora_parameters(transformer)) == 2 * 342


def test_the_initial_lora_is_zero_with_a_wide_a():
    parameters = lora_parameters(plain_transformer())
    down = torch.cat([value.flatten() for name, value in parameters.items() if ".lora_A." in name])
    assert down.std().item() == pytest.approx(1 / 4, rel=0.05)
    assert not any(value.any() for name, value in parameters.items() if ".lora_B." in name)
    assert all(value.shape[0] == 4 for name, value in parameters.items() if ".lora_A." in name)


def test_sigmas_are_uniform_over_the_table():
    sigmas = plain_sigmas(20_000, generator=torch.Generator().manual_seed(0))
    assert sigmas.min() == pytest.approx(0.001)
    assert sigmas.max() == 1
    counts = torch.histc(sigmas, bins=10, min=0, max=1)
    assert counts.min() > 0.9 * 2000


def test_the_guidance_is_3_5():
    transformer = plain_transformer()
    with recorded_calls(transformer) as calls:
        train_plain(transformer, tiny_dataset(), steps=2, batch_size=2, seed=0, report=lambda step: None)
    assert [call["guidance"].tolist() for call in calls] == [[3.5, 3.5]] * 2


def test_every_image_is_used_once_per_epoch_with_its_own_caption():
    transformer, dataset = plain_transformer(), tiny_dataset(4)
    with recorded_calls(transformer) as calls:
        train_plain(transformer, dataset, steps=4, batch_size=2, seed=0, report=lambda step: None)
    for epoch in (calls[:2], calls[2:]):
        used = torch.cat([call["pooled_projections"] for call in epoch])
        expected = torch.stack([example.prompt.pooled for example in dataset.examples])
        assert sorted(used[:, 0].tolist()) == sorted(expected[:, 0].tolist())


def test_training_changes_only_the_lora():
    transformer = plain_transformer()
    before = {name: value.clone() for name, value in transformer.named_parameters()}
    steps: list[int] = []
    train_plain(transformer, tiny_dataset(), steps=3, batch_size=2, seed=0, report=steps.append)
    changed = {name for name, value in transformer.named_parameters() if not torch.equal(value, before[name])}
    assert steps == [1, 2, 3]
    assert changed == set(lora_parameters(transformer))


def test_the_same_seed_gives_the_same_lora_and_another_seed_another():
    one, same, other = (_trained(seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one)


def _trained(*, seed: int) -> dict[str, torch.Tensor]:
    transformer = plain_transformer(seed=seed)
    train_plain(transformer, tiny_dataset(), steps=2, batch_size=2, seed=seed, report=lambda step: None)
    return {name: value.detach().clone() for name, value in lora_parameters(transformer).items()}
