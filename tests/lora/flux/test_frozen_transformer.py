"""Holding the transformer: each precision answers and learns alike, from one file or from shards."""

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

from lora.engine.int8 import Int8Linear, W8A8Linear
from lora.engine.linears import HostLinear, Nf4Linear
from lora.flux.frozen_transformer import IN_BLOCK, INDEX, MODULATION, WEIGHTS, WeightPlacement, load_transformer
from lora.flux.prompt import Prompt
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
    tiny_batch,
    tiny_pipeline,
    tiny_transformer,
)

CPU, META = torch.device("cpu"), torch.device("meta")
PRECISIONS = ("fp32", "bf16", "int8", "nf4")
EVERY_WAY = [(precision, on_host) for precision in PRECISIONS for on_host in (False, True)]
SIGMAS = torch.tensor([0.1, 0.4, 0.6, 0.9])
LINEAR_LAYERS = 2 * 14 + 4 * 6  # in the blocks of tiny-flux
MODULATION_LAYERS = 2 * 2 + 4  # of tiny-flux: two in each double block, one in each single block


@dataclass(frozen=True)
class Question:
    """Latents, what they show, and noise."""

    latents: Tensor
    prompt: Prompt
    noise: Tensor


@pytest.fixture(scope="module")
def of_the_world():
    """Pictures of the world that tiny-flux was taught."""
    examples = world(tiny_pipeline(), count=len(SIGMAS))
    latents = torch.stack([example.latents for example in examples])
    return Question(latents, Prompt.stack([example.prompt for example in examples]), noise_like(latents))


@pytest.fixture(scope="module")
def one_of_the_world(of_the_world):
    """One picture and the first words of its prompt, as a CPU multiplies 8 bits slowly."""
    prompt = Prompt(of_the_world.prompt.tokens[:1, :64], of_the_world.prompt.pooled[:1])
    return Question(of_the_world.latents[:1], prompt, of_the_world.noise[:1])


@pytest.fixture(scope="module")
def full_gradients(of_the_world):
    """Of a LoRA on tiny-flux in full precision."""
    return gradients_of(worn(loaded(TINY_FLUX, "fp32", False)), of_the_world)


@pytest.fixture(scope="module")
def tiny():
    """What tests/tiny.py asks its transformer."""
    batch = tiny_batch(len(SIGMAS))
    return Question(batch.latents, batch.prompt, noise_like(batch.latents))


def noise_like(latents):
    return torch.randn(latents.shape, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def broken(base, tmp_path):
    """A copy of it whose tensors a test may change."""

    def change(changed):
        file = tmp_path / "transformer" / WEIGHTS
        save_file(changed(load_file(file)), file)
        return file

    shutil.copytree(base / "transformer", tmp_path / "transformer")
    return change


def loaded(base: Path, precision: str, on_host: bool) -> FluxTransformer2DModel:
    return load_transformer(base, WeightPlacement(precision, on_host, CPU))


def multiplying_in_8_bits(base: Path) -> FluxTransformer2DModel:
    """Stored in int8 as on a GPU that multiplies it: all but the modulation layers round their inputs, too."""
    transformer, plain = loaded(base, "int8", False), loaded(base, "fp32", False)
    for name, layer in plain.named_modules():
        if isinstance(layer, nn.Linear) and IN_BLOCK.match(name) and not MODULATION.fullmatch(name):
            rounded = W8A8Linear(layer, dtype=torch.float32)
            rounded.hold(layer.weight, device=CPU, dtype=torch.float32)
            transformer.set_submodule(name, rounded)
    return transformer


def worn(transformer, *, spread=0.02):
    """With a LoRA that does something, on each layer that can wear one."""
    add_lora(transformer, layers=all_layers(transformer), rank=4, seed=0)
    randomize_lora(transformer, spread=spread)
    return transformer


def loss_of(transformer, question):
    sigmas = SIGMAS[: len(question.latents)]
    share = sigmas.view(-1, 1, 1, 1)
    noisy = (1 - share) * question.latents + share * question.noise
    with torch.autocast("cpu", torch.bfloat16, enabled=transformer.dtype == torch.bfloat16):
        velocity = predict_velocity(transformer, noisy, sigmas=sigmas, prompt=question.prompt, guidance=1.0)
    return (velocity.float() - (question.noise - question.latents)).square().mean()


def gradients_of(transformer, question):
    transformer.zero_grad()
    loss_of(transformer, question).backward()
    return {name: parameter.grad.clone() for name, parameter in lora_parameters(transformer).items()}


def base_storage(transformer):
    """Copies of all that the base is made of, scales and weights on the host among it."""
    held = {name: p.detach().clone() for name, p in transformer.named_parameters() if not p.requires_grad}
    for name, module in transformer.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, HostLinear):
            held[f"{name} on the host"] = module.host_weight.clone()
        if isinstance(module, Int8Linear):
            held[f"{name} scales"] = module.scales.clone()
        if isinstance(module, Nf4Linear):
            held[f"{name} scales"] = weight.quant_state.absmax.clone()
    return held


def rounded(layer):
    """The weights that a quantised layer stands for."""
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
def test_unquantised_it_is_what_diffusers_loads(precision, dtype):
    found = loaded(TINY_FLUX, precision, False)
    expected = FluxTransformer2DModel.from_pretrained(TINY_FLUX, subfolder="transformer", dtype=dtype)
    assert_equal(dict(found.named_parameters()), dict(expected.named_parameters()))
    assert found.dtype == dtype
    assert found.device == CPU
    for name, value in found.config.items():
        assert expected.config[name] == value
    assert found.training == expected.training


@pytest.mark.parametrize(("precision", "on_host"), EVERY_WAY)
def test_nothing_of_it_trains(precision, on_host):
    assert not any(parameter.requires_grad for parameter in loaded(TINY_FLUX, precision, on_host).parameters())


@pytest.mark.parametrize(("precision", "kind"), [("int8", Int8Linear), ("nf4", Nf4Linear)])
def test_linear_layers_in_the_blocks_are_quantised_and_none_outside(base, precision, kind):
    transformer = loaded(base, precision, False)
    quantised = {name for name, layer in transformer.named_modules() if isinstance(layer, kind)}
    linear = {name for name, layer in tiny_transformer().named_modules() if isinstance(layer, nn.Linear)}
    assert len(quantised) == LAYERS
    assert quantised == {name for name in linear if "transformer_blocks" in name}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_modulation_layers_can_be_on_the_host_and_no_others(precision):
    transformer = loaded(TINY_FLUX, precision, True)
    on_host = [name for name, layer in transformer.named_modules() if isinstance(layer, HostLinear)]
    assert len(on_host) == MODULATION_LAYERS
    assert all(name.endswith((".norm1.linear", ".norm1_context.linear", ".norm.linear")) for name in on_host)


def test_weights_on_the_host_stay_there_when_the_model_moves():
    """Loaded for the meta device, which stands for a GPU here; the LoRA on such a layer is on the device."""
    transformer = load_transformer(TINY_FLUX, WeightPlacement("fp32", True, META))
    add_lora(transformer, layers=all_layers(transformer), rank=4, seed=0)
    assert {parameter.device.type for parameter in transformer.parameters()} == {"meta"}
    layers = [layer for layer in transformer.modules() if isinstance(layer, HostLinear)]
    assert {layer.host_weight.device.type for layer in layers} == {"cpu"}
    moved = loaded(TINY_FLUX, "fp32", True).to("meta")
    assert {layer.host_weight.device.type for layer in moved.modules() if isinstance(layer, HostLinear)} == {"cpu"}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_on_the_host_or_not_answers_and_gradients_have_the_same_bits(base, precision, checkpointing, tiny):
    """Of a quantised base, the layers on the host are not quantised, and so answer better."""
    results = []
    for on_host in (False, True):
        transformer = worn(loaded(base, precision, on_host))
        if checkpointing:
            transformer.enable_gradient_checkpointing()
        results.append(gradients_of(transformer, tiny) | {"loss": loss_of(transformer, tiny)})
    assert_equal(*results)


@pytest.mark.parametrize(("precision", "on_host"), EVERY_WAY)
def test_recomputed_activations_give_gradients_of_the_same_bits(base, precision, on_host, tiny):
    """Trap 41."""
    transformer = worn(loaded(base, precision, on_host))
    kept = gradients_of(transformer, tiny)
    transformer.enable_gradient_checkpointing()
    assert_equal(gradients_of(transformer, tiny), kept)


@pytest.mark.parametrize("on_host", [False, True])
@pytest.mark.parametrize(("precision", "within"), [("bf16", 0.02), ("int8", 0.02), ("nf4", 0.3)])
def test_the_loss_is_near_that_of_full_precision(precision, on_host, within, of_the_world):
    """nf4 rounds a weight by 9 %, which a network as narrow as tiny-flux feels: 10 to 25 % more loss were seen."""
    losses = {way: loss_of(loaded(TINY_FLUX, way, on_host), of_the_world).item() for way in ("fp32", "bf16", precision)}
    assert losses[precision] == pytest.approx(losses["fp32"], rel=within)
    assert losses[precision] == pytest.approx(losses["bf16"], rel=within)


@pytest.mark.parametrize("on_host", [False, True])
@pytest.mark.parametrize(("precision", "cosine"), [("bf16", 0.995), ("int8", 0.995), ("nf4", 0.7)])
def test_every_lora_learns_in_about_the_direction_of_full_precision(
    precision, on_host, cosine, of_the_world, full_gradients
):
    found = gradients_of(worn(loaded(TINY_FLUX, precision, on_host)), of_the_world)
    assert found.keys() == full_gradients.keys()
    assert all(gradient.abs().sum() > 0 for gradient in found.values())
    assert {gradient.dtype for gradient in found.values()} == {torch.float32}
    assert cosine_between(found, full_gradients) > cosine


def test_multiplied_in_8_bits_loss_and_learning_are_about_those_of_full_precision(one_of_the_world):
    question = one_of_the_world
    found, expected = worn(multiplying_in_8_bits(TINY_FLUX)), worn(loaded(TINY_FLUX, "fp32", False))
    losses = [loss_of(transformer, question).item() for transformer in (found, expected)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    found, expected = gradients_of(found, question), gradients_of(expected, question)
    assert cosine_between(found, expected) > 0.99
    apart = {name: cosine_between({name: found[name]}, {name: expected[name]}) for name in found}
    assert min(apart.values()) > 0.9, min(apart, key=apart.get)


def test_multiplied_in_8_bits_each_layer_answers_and_hands_on_gradients_nearly_as_the_plain_one(one_of_the_world):
    """On what the layers of tiny-flux really see, and on the gradients that come back to them."""
    plain, rounded = worn(loaded(TINY_FLUX, "fp32", False)), multiplying_in_8_bits(TINY_FLUX)
    layers = {name: each for name, each in rounded.named_modules() if isinstance(each, W8A8Linear)}
    assert len(layers) == LINEAR_LAYERS - MODULATION_LAYERS
    for name, seen in seen_by(plain, layers, one_of_the_world).items():
        x = seen.x.clone().requires_grad_()
        answer = layers[name](x)
        answer.backward(seen.gradient)
        base = plain.get_submodule(name).base_layer
        assert (answer - base(seen.x)).norm() < 0.03 * base(seen.x).norm(), name
        expected = seen.gradient.double() @ base.weight.double()
        assert torch.cosine_similarity(x.grad.flatten(), expected.flatten(), dim=0) > 0.999, name


@dataclass
class Seen:
    """What a layer saw, and the gradient that came back to its answer."""

    x: Tensor
    gradient: Tensor | None = None


def seen_by(transformer, names, question):
    """What layers see in the loss of a question, by their names."""
    seen = {}

    def note(name):
        def hook(_module, inputs, answer):
            seen[name] = Seen(inputs[0].detach())
            answer.register_hook(lambda gradient: setattr(seen[name], "gradient", gradient))

        return hook

    for name in names:
        transformer.get_submodule(name).register_forward_hook(note(name))
    loss_of(transformer, question).backward()
    return seen


def test_multiplied_in_8_bits_recomputed_activations_give_gradients_of_the_same_bits(base, tiny):
    transformer = worn(multiplying_in_8_bits(base))
    kept = gradients_of(transformer, tiny)
    transformer.enable_gradient_checkpointing()
    assert_equal(gradients_of(transformer, tiny), kept)


@pytest.mark.parametrize("on_host", [False, True])
@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_rounding_the_weights_is_all_that_quantising_does(base, precision, on_host, tiny):
    """Plain layers with the rounded weights give the same loss and gradients."""
    quantised, plain = loaded(base, precision, on_host), loaded(base, "fp32", on_host)
    for name, layer in quantised.named_modules():
        if isinstance(layer, Int8Linear | Nf4Linear):
            plain.get_submodule(name).weight.data.copy_(rounded(layer))
    losses = [loss_of(transformer, tiny).item() for transformer in (quantised, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    found, expected = (gradients_of(worn(transformer), tiny) for transformer in (quantised, plain))
    for name in expected:
        assert cosine_between({name: found[name]}, {name: expected[name]}) > 0.9999, name


def test_peft_knows_the_layers_of_bitsandbytes_for_what_they_are(base):
    transformer = worn(loaded(base, "nf4", False))
    wrapped = [layer for layer in transformer.modules() if isinstance(layer, peft_bnb.Linear4bit)]
    assert len(wrapped) == LAYERS


@pytest.mark.parametrize(("precision", "on_host"), EVERY_WAY)
def test_training_leaves_the_base_as_it_was(base, precision, on_host, tiny):
    transformer = worn(loaded(base, precision, on_host))
    before, lora = base_storage(transformer), [p for p in transformer.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(lora, lr=1e-2)
    first = loss_of(transformer, tiny).item()
    for _ in range(3):
        gradients_of(transformer, tiny)
        optimizer.step()
    assert loss_of(transformer, tiny).item() < first
    assert_equal(base_storage(transformer), before)


@pytest.mark.parametrize(("precision", "on_host"), EVERY_WAY)
def test_shards_load_as_one_file_does(base, tmp_path, precision, on_host):
    tiny_transformer().save_pretrained(tmp_path / "transformer", max_shard_size="100KB")
    assert len(list((tmp_path / "transformer").glob("*.safetensors"))) > 3
    assert_equal(base_storage(loaded(tmp_path, precision, on_host)), base_storage(loaded(base, precision, on_host)))


def test_a_missing_tensor_is_named(broken, tmp_path):
    broken(lambda tensors: {name: tensor for name, tensor in tensors.items() if name != "proj_out.bias"})
    with pytest.raises(ValueError, match="has no tensor") as error:
        loaded(tmp_path, "fp32", False)
    assert_one_sentence(error.value, str(tmp_path / "transformer"), "proj_out.bias")


def test_a_tensor_that_flux_has_not_is_named(broken, tmp_path):
    file = broken(lambda tensors: tensors | {"single_transformer_blocks.2.extra": torch.zeros(1)})
    with pytest.raises(ValueError, match="expected none of that name") as error:
        loaded(tmp_path, "fp32", False)
    assert_one_sentence(error.value, str(file), "single_transformer_blocks.2.extra")


@pytest.mark.parametrize(("precision", "on_host"), EVERY_WAY)
def test_a_tensor_of_another_shape_is_named(broken, tmp_path, precision, on_host):
    name = "transformer_blocks.0.norm1.linear.weight"
    file = broken(lambda tensors: tensors | {name: tensors[name].T.contiguous()})
    with pytest.raises(ValueError, match="of shape") as error:
        loaded(tmp_path, precision, on_host)
    assert_one_sentence(error.value, str(file), name, "[32, 192]", "[192, 32]")


def test_a_file_cut_short_is_named(broken, tmp_path):
    file = broken(lambda tensors: tensors)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is damaged") as error:
        loaded(tmp_path, "fp32", False)
    assert_one_sentence(error.value, str(file))


def test_a_shard_that_is_not_there_is_named(broken, tmp_path):
    file = broken(lambda tensors: tensors)
    (file.parent / INDEX).write_text(json.dumps({"weight_map": {"proj_out.bias": "absent.safetensors"}}))
    with pytest.raises(FileNotFoundError) as error:
        loaded(tmp_path, "fp32", False)
    assert_one_sentence(error.value, str(file.parent / "absent.safetensors"))


def test_quantised_weights_on_a_cpu_are_computed_with_in_fp32():
    assert [WeightPlacement(precision, False, CPU).dtype for precision in PRECISIONS] == [
        torch.float32,
        torch.bfloat16,
        torch.float32,
        torch.float32,
    ]
    assert WeightPlacement("nf4", False, torch.device("cuda")).dtype == torch.bfloat16
