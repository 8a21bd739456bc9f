"""The LoRA is on every layer of the blocks, changes nothing at first, is trained in fp32 and saved without alpha."""

import pytest
import torch
from accelerate import init_empty_weights
from diffusers import FluxTransformer2DModel
from peft import LoraConfig
from torch import nn

from lora.training.learning.adapter import add_lora, lora_tensors
from lora.training.learning.data_parallel import SingleProcess
from lora.training.learning.loop import take_step
from lora.training.learning.losses import losses_at
from lora.training.learning.state import TrainingState
from lora.training.recipe.layers import block_layers
from tests.tiny import (
    LAYERS,
    a_recipe,
    all_layers,
    lora_parameters,
    randomize_lora,
    tiny_batches,
    tiny_lora_transformer,
    tiny_transformer,
)


def layers_of(tensors):
    return {name.rsplit(".lora_", 1)[0] for name in tensors}


def first_losses(transformer):
    noisy_batch = tiny_batches(a_recipe(batch_size=4)).noisy_batch(0)
    return losses_at(transformer, noisy_batch.batch, noise=noisy_batch.noise, sigmas=noisy_batch.sigmas)


def first_gradients(transformer):
    first_losses(transformer).mean().backward()
    return {name: parameter.grad for name, parameter in lora_parameters(transformer).items()}


def test_flux_dev_has_494_layers_and_all_are_inside_the_blocks():
    """Trap 22."""
    with init_empty_weights():
        transformer = FluxTransformer2DModel(
            num_layers=19,
            num_single_layers=38,
            attention_head_dim=128,
            num_attention_heads=24,
            joint_attention_dim=4096,
            pooled_projection_dim=768,
            guidance_embeds=True,
        )
        add_lora(transformer, layers=block_layers(transformer.config, type(transformer)), rank=1, seed=0)
    layers = layers_of(lora_parameters(transformer))
    assert len(layers) == 494
    assert all("transformer_blocks." in layer for layer in layers)


def test_every_linear_layer_of_the_blocks_and_none_outside_has_a_lora():
    """Trap 22."""
    bare = tiny_transformer()
    linear = {name for name, module in bare.named_modules() if isinstance(module, nn.Linear) and "_blocks." in name}
    assert len(linear) == LAYERS
    assert layers_of(lora_tensors(tiny_lora_transformer())) == {f"transformer.{name}" for name in linear}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_lora_is_fp32_on_a_base_of_any_precision(dtype):
    """Trap 18."""
    transformer = tiny_lora_transformer(dtype=dtype)
    assert transformer.proj_out.weight.dtype == dtype
    assert {parameter.dtype for parameter in lora_parameters(transformer).values()} == {torch.float32}


def test_a_step_too_small_for_bf16_still_changes_every_weight():
    """Trap 18."""
    transformer = tiny_lora_transformer(dtype=torch.bfloat16)
    randomize_lora(transformer, spread=0.01)
    ups = {name: parameter for name, parameter in lora_parameters(transformer).items() if ".lora_B." in name}
    before = {name: parameter.detach().clone() for name, parameter in ups.items()}
    gradients = {}
    for name, parameter in ups.items():
        parameter.register_hook(lambda gradient, name=name: gradients.update({name: gradient.clone()}))
    recipe = a_recipe(steps=1, learning_rate=1e-6)
    state = TrainingState(transformer, recipe)
    for group in state.optimizer.param_groups:
        group["lr"] = 1e-6  # without warm-up
    take_step(transformer, state, tiny_batches(recipe), recipe, process_group=SingleProcess())
    for name, parameter in ups.items():
        large = gradients[name].abs() > 1e-7  # where epsilon does not suppress Adam's step
        assert large.any()
        assert (parameter.detach() != before[name])[large].all()


def test_only_the_lora_is_trained():
    """Trap 42."""
    transformer = tiny_lora_transformer()
    trainable = {name for name, parameter in transformer.named_parameters() if parameter.requires_grad}
    assert trainable == lora_parameters(transformer).keys()
    assert len(trainable) == 2 * LAYERS


def test_a_starts_uniform_and_b_at_zero():
    """Trap 21."""
    for name, parameter in lora_parameters(tiny_lora_transformer(rank=16)).items():
        if ".lora_B." in name:
            assert not parameter.any()
        else:
            spread = parameter.std() * parameter.shape[1] ** 0.5
            assert spread.item() == pytest.approx(3**-0.5, rel=0.12), name


def test_a_new_lora_changes_nothing():
    assert torch.equal(first_losses(tiny_transformer()), first_losses(tiny_lora_transformer()))


def test_the_first_gradients_are_of_every_b_and_no_a():
    """Trap 43."""
    gradients = first_gradients(tiny_lora_transformer())
    assert len(gradients) == 2 * LAYERS
    for name, gradient in gradients.items():
        assert bool(gradient.any()) == (".lora_B." in name), name


def test_later_gradients_are_of_every_a_too():
    """Trap 43."""
    transformer = tiny_lora_transformer()
    randomize_lora(transformer)
    assert all(gradient.any() for gradient in first_gradients(transformer).values())


def test_the_same_seed_gives_the_same_initial_lora_and_leaves_the_global_generator_alone():
    """Trap 50."""
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = (lora_parameters(tiny_lora_transformer(seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first if ".lora_A." in name)


def test_the_saved_lora_has_the_same_weight_deltas():
    """Trap 48: half the bytes, the same deltas to two or three digits, and no shared or strided tensors."""
    transformer = tiny_lora_transformer()
    randomize_lora(transformer)
    exact, saved = lora_parameters(transformer), lora_tensors(transformer)
    for layer in layers_of(saved):
        down, up = saved[f"{layer}.lora_A.weight"], saved[f"{layer}.lora_B.weight"]
        plain = layer.removeprefix("transformer.")
        delta = exact[f"{plain}.lora_B.default.weight"] @ exact[f"{plain}.lora_A.default.weight"]
        assert (up.float() @ down.float() - delta).norm() / delta.norm() < 4e-3
    assert all(tensor.is_contiguous() and tensor.device.type == "cpu" for tensor in saved.values())
    assert len({tensor.data_ptr() for tensor in saved.values()}) == 2 * LAYERS


def test_alpha_is_folded_into_b():
    """Traps 24, 25."""
    plain, doubled = tiny_transformer(), tiny_transformer()
    for transformer, alpha in ((plain, 4), (doubled, 8)):
        transformer.add_adapter(LoraConfig(r=4, lora_alpha=alpha, target_modules=list(all_layers(transformer))))
        randomize_lora(transformer)
    ones, twos = lora_tensors(plain), lora_tensors(doubled)
    assert not any("alpha" in name for name in twos)
    for name in (name for name in ones if ".lora_B." in name):
        assert torch.equal(twos[name], 2 * ones[name])
