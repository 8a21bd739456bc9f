"""The frozen transformer computes and trains alike in each precision, from one file or from shards."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from diffusers import FluxTransformer2DModel
from peft.tuners.lora import bnb as peft_bnb
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lora.base.prompt import Prompt
from lora.engine.int8 import Int8Linear, W8A8Linear
from lora.engine.linears import HostLinear, Nf4Linear
from lora.families.frozen_transformer import IN_BLOCK, INDEX, WEIGHTS, WeightPlacement, load_transformer
from lora.flux.family import MODULATION
from lora.flux.velocity import predict_velocity
from lora.training.learning.adapter import add_lora
from script.tiny_flux.learning import world
from tests.tiny import (
    LAYERS,
    TINY_FLUX,
    all_layers,
    assert_one_sentence,
    lora_parameters,
    randomize_lora,
    save_transformer,
    tiny_batch,
    tiny_pipeline,
    tiny_transformer,
)

CPU, META = torch.device("cpu"), torch.device("meta")
PRECISIONS = ("fp32", "bf16", "int8", "nf4")
PLACEMENTS = [(precision, on_host) for precision in PRECISIONS for on_host in (False, True)]
SIGMAS = torch.tensor([0.1, 0.4, 0.6, 0.9])
LINEAR_LAYERS = 2 * 14 + 4 * 6  # in the blocks of tiny-flux
MODULATION_LAYERS = 2 * 2 + 4  # of tiny-flux: two in each double block, one in each single block


@dataclass(frozen=True)
class LossInputs:
    """Latents, their prompts, and noise."""

    latents: Tensor
    prompt: Prompt
    noise: Tensor


@pytest.fixture(scope="module")
def world_inputs():
    """Images of the world that tiny-flux was trained on."""
    examples = world(tiny_pipeline(), count=len(SIGMAS))
    latents = torch.stack([example.latents for example in examples])
    return LossInputs(latents, Prompt.stack([example.prompt for example in examples]), noise_like(latents))


@pytest.fixture(scope="module")
def one_world_input(world_inputs):
    """One image and the first tokens of its prompt, as a CPU multiplies 8 bits slowly."""
    prompt = Prompt(world_inputs.prompt.tokens[:1, :64], world_inputs.prompt.pooled[:1])
    return LossInputs(world_inputs.latents[:1], prompt, world_inputs.noise[:1])


@pytest.fixture(scope="module")
def full_gradients(world_inputs):
    """The gradients of a LoRA on tiny-flux in full precision."""
    return gradients_of(with_lora(loaded(TINY_FLUX, "fp32", False)), world_inputs)


@pytest.fixture(scope="module")
def tiny_inputs():
    """Inputs for the transformer of tests/tiny.py."""
    batch = tiny_batch(len(SIGMAS))
    return LossInputs(batch.latents, batch.prompt, noise_like(batch.latents))


def noise_like(latents):
    return torch.randn(latents.shape, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def broken(base, tmp_path):
    """A copy of the base; the returned function changes its tensors."""

    def change(function):
        file = tmp_path / "transformer" / WEIGHTS
        save_file(function(load_file(file)), file)
        return file

    shutil.copytree(base, tmp_path, dirs_exist_ok=True)
    return change


def loaded(base: Path, precision: str, on_host: bool) -> FluxTransformer2DModel:
    return load_transformer(base, WeightPlacement(precision, on_host, CPU))


def with_int8_products(base: Path) -> FluxTransformer2DModel:
    """Int8 as on a GPU that multiplies it: all layers but those of modulation round their inputs, too."""
    transformer, plain = loaded(base, "int8", False), loaded(base, "fp32", False)
    for name, layer in plain.named_modules():
        if isinstance(layer, nn.Linear) and IN_BLOCK.match(name) and not MODULATION.fullmatch(name):
            quantized = W8A8Linear(layer, dtype=torch.float32)
            quantized.store_weight(layer.weight, device=CPU, dtype=torch.float32)
            transformer.set_submodule(name, quantized)
    return transformer


def with_lora(transformer, *, spread=0.02):
    """With a LoRA that is not zero on each layer that can have one."""
    add_lora(transformer, layers=all_layers(transformer), rank=4, seed=0)
    randomize_lora(transformer, spread=spread)
    return transformer


def loss_of(transformer, inputs):
    sigmas = SIGMAS[: len(inputs.latents)]
    fraction = sigmas.view(-1, 1, 1, 1)
    noisy = (1 - fraction) * inputs.latents + fraction * inputs.noise
    with torch.autocast("cpu", torch.bfloat16, enabled=transformer.dtype == torch.bfloat16):
        velocity = predict_velocity(transformer, noisy, sigmas=sigmas, prompt=inputs.prompt, guidance=1.0)
    return (velocity.float() - (inputs.noise - inputs.latents)).square().mean()


def gradients_of(transformer, inputs):
    transformer.zero_grad()
    loss_of(transformer, inputs).backward()
    return {name: parameter.grad.clone() for name, parameter in lora_parameters(transformer).items()}


def base_storage(transformer):
    """Copies of all tensors of the base, including scales and weights on the host."""
    tensors = {name: p.detach().clone() for name, p in transformer.named_parameters() if not p.requires_grad}
    for name, module in transformer.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, HostLinear):
            tensors[f"{name} on the host"] = module.host_weight.clone()
        if isinstance(module, Int8Linear):
            tensors[f"{name} scales"] = module.scales.clone()
        if isinstance(module, Nf4Linear):
            tensors[f"{name} scales"] = weight.quant_state.absmax.clone()
    return tensors


def dequantized(layer):
    """The weights of a quantized layer, dequantized."""
    weight = layer.weight
    if isinstance(layer, Int8Linear):
        return weight.data.float() * layer.scales.unsqueeze(1)
    return dequantize_4bit(weight.data, weight.quant_state)


def cosine_between(found, expected):
    flat = [torch.cat([gradients[name].flatten() for name in expected]) for gradients in (found, expected)]
    return torch.cosine_similarity(*flat, dim=0).item()


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_an_unquantized_transformer_is_what_diffusers_loads(precision, dtype):
    found = loaded(TINY_FLUX, precision, False)
    expected = FluxTransformer2DModel.from_pretrained(TINY_FLUX, subfolder="transformer", dtype=dtype)
    assert_equal(dict(found.named_parameters()), dict(expected.named_parameters()))
    assert found.dtype == dtype
    assert found.device == CPU
    for name, value in found.config.items():
        assert expected.config[name] == value
    assert found.training == expected.training


@pytest.mark.parametrize(("precision", "on_host"), PLACEMENTS)
def test_no_parameter_is_trainable(precision, on_host):
    assert not any(parameter.requires_grad for parameter in loaded(TINY_FLUX, precision, on_host).parameters())


@pytest.mark.parametrize(("precision", "kind"), [("int8", Int8Linear), ("nf4", Nf4Linear)])
def test_only_linear_layers_in_the_blocks_are_quantized(base, precision, kind):
    transformer = loaded(base, precision, False)
    quantized = {name for name, layer in transformer.named_modules() if isinstance(layer, kind)}
    linear = {name for name, layer in tiny_transformer().named_modules() if isinstance(layer, nn.Linear)}
    assert len(quantized) == LAYERS
    assert quantized == {name for name in linear if "transformer_blocks" in name}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_only_modulation_layers_can_be_on_the_host(precision):
    transformer = loaded(TINY_FLUX, precision, True)
    on_host = [name for name, layer in transformer.named_modules() if isinstance(layer, HostLinear)]
    assert len(on_host) == MODULATION_LAYERS
    assert all(name.endswith((".norm1.linear", ".norm1_context.linear", ".norm.linear")) for name in on_host)


def test_weights_on_the_host_stay_there_when_the_model_moves():
    """The meta device stands in for a GPU here; the LoRA on such a layer is on the device."""
    transformer = load_transformer(TINY_FLUX, WeightPlacement("fp32", True, META))
    add_lora(transformer, layers=all_layers(transformer), rank=4, seed=0)
    assert {parameter.device.type for parameter in transformer.parameters()} == {"meta"}
    layers = [layer for layer in transformer.modules() if isinstance(layer, HostLinear)]
    assert {layer.host_weight.device.type for layer in layers} == {"cpu"}
    moved = loaded(TINY_FLUX, "fp32", True).to("meta")
    assert {layer.host_weight.device.type for layer in moved.modules() if isinstance(layer, HostLinear)} == {"cpu"}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_layers_on_the_host_do_not_change_the_bits_of_loss_and_gradients(base, precision, checkpointing, tiny_inputs):
    """Not so on a quantized base, as layers on the host are not quantized, and more exact."""
    results = []
    for on_host in (False, True):
        transformer = with_lora(loaded(base, precision, on_host))
        if checkpointing:
            transformer.enable_gradient_checkpointing()
        results.append(gradients_of(transformer, tiny_inputs) | {"loss": loss_of(transformer, tiny_inputs)})
    assert_equal(*results)


@pytest.mark.parametrize(("precision", "on_host"), PLACEMENTS)
def test_recomputed_activations_give_the_same_gradients_bit_for_bit(base, precision, on_host, tiny_inputs):
    """Trap 41."""
    transformer = with_lora(loaded(base, precision, on_host))
    kept = gradients_of(transformer, tiny_inputs)
    transformer.enable_gradient_checkpointing()
    assert_equal(gradients_of(transformer, tiny_inputs), kept)


@pytest.mark.parametrize("on_host", [False, True])
@pytest.mark.parametrize(("precision", "within"), [("bf16", 0.02), ("int8", 0.02), ("nf4", 0.3)])
def test_the_loss_is_near_that_of_full_precision(precision, on_host, within, world_inputs):
    """nf4 rounds a weight by 9 %, which matters in a network as narrow as tiny-flux: its loss was 10 to 25 % higher."""
    losses = {p: loss_of(loaded(TINY_FLUX, p, on_host), world_inputs).item() for p in ("fp32", "bf16", precision)}
    assert losses[precision] == pytest.approx(losses["fp32"], rel=within)
    assert losses[precision] == pytest.approx(losses["bf16"], rel=within)


@pytest.mark.parametrize("on_host", [False, True])
@pytest.mark.parametrize(("precision", "cosine"), [("bf16", 0.995), ("int8", 0.995), ("nf4", 0.7)])
def test_gradients_have_about_the_direction_of_full_precision(precision, on_host, cosine, world_inputs, full_gradients):
    found = gradients_of(with_lora(loaded(TINY_FLUX, precision, on_host)), world_inputs)
    assert found.keys() == full_gradients.keys()
    assert all(gradient.abs().sum() > 0 for gradient in found.values())
    assert {gradient.dtype for gradient in found.values()} == {torch.float32}
    assert cosine_between(found, full_gradients) > cosine


def test_int8_products_have_about_the_loss_and_gradients_of_full_precision(one_world_input):
    inputs = one_world_input
    found, expected = with_lora(with_int8_products(TINY_FLUX)), with_lora(loaded(TINY_FLUX, "fp32", False))
    losses = [loss_of(transformer, inputs).item() for transformer in (found, expected)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    found, expected = gradients_of(found, inputs), gradients_of(expected, inputs)
    assert cosine_between(found, expected) > 0.99
    cosines = {name: cosine_between({name: found[name]}, {name: expected[name]}) for name in found}
    assert min(cosines.values()) > 0.9, min(cosines, key=cosines.get)


def test_int8_products_have_nearly_the_outputs_and_gradients_of_each_plain_layer(one_world_input):
    """On real inputs of the layers of tiny-flux, and real gradients of their outputs."""
    plain, rounded = with_lora(loaded(TINY_FLUX, "fp32", False)), with_int8_products(TINY_FLUX)
    layers = {name: each for name, each in rounded.named_modules() if isinstance(each, W8A8Linear)}
    assert len(layers) == LINEAR_LAYERS - MODULATION_LAYERS
    for name, recorded in recorded_operands(plain, layers, one_world_input).items():
        x = recorded.x.clone().requires_grad_()
        output = layers[name](x)
        output.backward(recorded.gradient)
        base = plain.get_submodule(name).base_layer
        assert (output - base(recorded.x)).norm() < 0.03 * base(recorded.x).norm(), name
        expected = recorded.gradient.double() @ base.weight.double()
        assert torch.cosine_similarity(x.grad.flatten(), expected.flatten(), dim=0) > 0.999, name


@dataclass
class Operands:
    """The input of a layer, and the gradient of its output."""

    x: Tensor
    gradient: Tensor | None = None


def recorded_operands(transformer, names, inputs):
    """The inputs and output gradients of layers, by name, when the loss is computed."""
    recorded = {}

    def record(name):
        def hook(_module, args, output):
            recorded[name] = Operands(args[0].detach())
            output.register_hook(lambda gradient: setattr(recorded[name], "gradient", gradient))

        return hook

    for name in names:
        transformer.get_submodule(name).register_forward_hook(record(name))
    loss_of(transformer, inputs).backward()
    return recorded


def test_with_int8_products_recomputed_activations_give_the_same_gradients_bit_for_bit(base, tiny_inputs):
    transformer = with_lora(with_int8_products(base))
    kept = gradients_of(transformer, tiny_inputs)
    transformer.enable_gradient_checkpointing()
    assert_equal(gradients_of(transformer, tiny_inputs), kept)


@pytest.mark.parametrize("on_host", [False, True])
@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_quantizing_does_nothing_but_round_the_weights(base, precision, on_host, tiny_inputs):
    """Plain layers with the rounded weights have the same loss and gradients."""
    quantized, plain = loaded(base, precision, on_host), loaded(base, "fp32", on_host)
    for name, layer in quantized.named_modules():
        if isinstance(layer, Int8Linear | Nf4Linear):
            plain.get_submodule(name).weight.data.copy_(dequantized(layer))
    losses = [loss_of(transformer, tiny_inputs).item() for transformer in (quantized, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    found, expected = (gradients_of(with_lora(transformer), tiny_inputs) for transformer in (quantized, plain))
    for name in expected:
        assert cosine_between({name: found[name]}, {name: expected[name]}) > 0.9999, name


def test_peft_recognizes_the_layers_of_bitsandbytes(base):
    transformer = with_lora(loaded(base, "nf4", False))
    wrapped = [layer for layer in transformer.modules() if isinstance(layer, peft_bnb.Linear4bit)]
    assert len(wrapped) == LAYERS


@pytest.mark.parametrize(("precision", "on_host"), PLACEMENTS)
def test_training_does_not_change_the_base(base, precision, on_host, tiny_inputs):
    transformer = with_lora(loaded(base, precision, on_host))
    before, lora = base_storage(transformer), [p for p in transformer.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(lora, lr=1e-2)
    first = loss_of(transformer, tiny_inputs).item()
    for _ in range(3):
        gradients_of(transformer, tiny_inputs)
        optimizer.step()
    assert loss_of(transformer, tiny_inputs).item() < first
    assert_equal(base_storage(transformer), before)


@pytest.mark.parametrize(("precision", "on_host"), PLACEMENTS)
def test_shards_load_like_one_file(base, tmp_path, precision, on_host):
    save_transformer(tiny_transformer(), tmp_path, max_shard_size="100KB")
    assert len(list((tmp_path / "transformer").glob("*.safetensors"))) > 3
    assert_equal(base_storage(loaded(tmp_path, precision, on_host)), base_storage(loaded(base, precision, on_host)))


def test_a_missing_tensor_is_named(broken, tmp_path):
    broken(lambda tensors: {name: tensor for name, tensor in tensors.items() if name != "proj_out.bias"})
    with pytest.raises(ValueError, match="has no tensor") as error:
        loaded(tmp_path, "fp32", False)
    assert_one_sentence(error.value, str(tmp_path / "transformer"), "proj_out.bias")


def test_an_unexpected_tensor_is_named(broken, tmp_path):
    file = broken(lambda tensors: tensors | {"single_transformer_blocks.2.extra": torch.zeros(1)})
    with pytest.raises(ValueError, match="unknown or a duplicate") as error:
        loaded(tmp_path, "fp32", False)
    assert_one_sentence(error.value, str(file), "single_transformer_blocks.2.extra")


@pytest.mark.parametrize(("precision", "on_host"), PLACEMENTS)
def test_a_tensor_of_another_shape_is_named(broken, tmp_path, precision, on_host):
    name = "transformer_blocks.0.norm1.linear.weight"
    file = broken(lambda tensors: tensors | {name: tensors[name].T.contiguous()})
    with pytest.raises(ValueError, match="of shape") as error:
        loaded(tmp_path, precision, on_host)
    assert_one_sentence(error.value, str(file), name, "[32, 192]", "[192, 32]")


def test_a_truncated_file_is_named(broken, tmp_path):
    file = broken(lambda tensors: tensors)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is damaged") as error:
        loaded(tmp_path, "fp32", False)
    assert_one_sentence(error.value, str(file))


def test_a_missing_shard_is_named(broken, tmp_path):
    file = broken(lambda tensors: tensors)
    (file.parent / INDEX).write_text(json.dumps({"weight_map": {"proj_out.bias": "absent.safetensors"}}))
    with pytest.raises(FileNotFoundError) as error:
        loaded(tmp_path, "fp32", False)
    assert_one_sentence(error.value, str(file.parent / "absent.safetensors"))


def test_quantized_weights_on_a_cpu_compute_in_fp32():
    assert [WeightPlacement(precision, False, CPU).dtype for precision in PRECISIONS] == [
        torch.float32,
        torch.bfloat16,
        torch.float32,
        torch.float32,
    ]
    assert WeightPlacement("nf4", False, torch.device("cuda")).dtype == torch.bfloat16
