"""The counted activations are those that autograd keeps, for each recompute option; measured on a CPU, not on CUDA."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from lora.engine.lora_layers import fuse_lora
from lora.flux.dimensions import dimensions_of
from lora.training.memory.activations import KEPT, OUTER, most_units, recompute_options
from lora.training.memory.prediction import TRANSIENT_UNITS, activation_bytes
from lora.training.memory.weights import BF16
from tests.families import of_each_family
from tests.lora.training.memory.measured import Alive, predicted_velocity, requirements_of, with_lora
from tests.random_klein import random_klein_transformer
from tests.tiny import FLUX_DEV_CONFIG, TINY_FLUX, lora_parameters, save_transformer, tiny_transformer

FLUX_DEV = dimensions_of(FLUX_DEV_CONFIG)
FP32 = 4


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """The folders of all small transformers."""
    folder = tmp_path_factory.mktemp("base")
    save_transformer(tiny_transformer(), folder)
    klein = tmp_path_factory.mktemp("klein")
    save_transformer(random_klein_transformer(), klein)
    return {"tiny": folder, "tiny-flux": TINY_FLUX, "klein": klein}


@pytest.mark.parametrize(
    ("name", "precision", "batch_size", "engine", "whole", "options"),
    [
        ("tiny", "fp32", 1, "fast", 0, recompute_options("fast", "bf16", "bf16")),
        ("tiny", "fp32", 2, "plain", 0, recompute_options("plain", "bf16", "bf16")),
        ("tiny", "int8", 2, "fast", 0, ("blocks",)),
        ("tiny", "nf4", 1, "fast", 0, ("nothing", "gelu")),
        ("tiny-flux", "fp32", 1, "fast", 0, ("gelu",)),
        ("tiny", "fp32", 1, "fast", 2, ("nothing", "gelu")),
        ("klein", "fp32", 1, "fast", 0, recompute_options("fast", "bf16", "bf16")),
        ("klein", "fp32", 1, "plain", 0, recompute_options("plain", "bf16", "bf16")),
        ("klein", "int8", 2, "fast", 0, ("gelu",)),
        ("klein", "fp32", 1, "fast", 2, ("gelu",)),
    ],
)
def test_activations_take_what_is_predicted(bases, name, precision, batch_size, engine, whole, options):
    """What is kept between the two passes, and the peak of the backward pass, including gradients of activations."""
    for recomputed in options:
        transformer = with_lora(bases[name], precision, engine, recomputed, whole=whole)
        for parameter in lora_parameters(transformer).values():
            parameter.grad = torch.zeros_like(parameter)  # so that only activations are counted
        requirements, alive = requirements_of(transformer, batch_size=batch_size), Alive()
        with alive:
            output = predicted_velocity(transformer, requirements)
            kept, alive.most = alive.now(), 0
            output.sum().backward()
        shape = requirements.shape
        unit = batch_size * (requirements.image_tokens + requirements.text_tokens) * shape.width * FP32
        doubles, singles = shape.split_blocks(whole)
        counted = OUTER + doubles * shape.double.kept["blocks"] + singles * shape.single.kept["blocks"]
        counted += (shape.double.count - doubles) * shape.double.kept[recomputed]
        counted += (shape.single.count - singles) * shape.single.kept[recomputed]
        # two units are the inputs and their position tables, which count in so narrow a network
        assert kept / unit == pytest.approx(counted, rel=0.05, abs=2), recomputed
        predicted = activation_bytes(
            requirements, recomputed=recomputed, whole_blocks=whole, value_bytes=FP32, is_autocast=False
        )
        transient = (shape.widest + TRANSIENT_UNITS) * unit
        assert 0.75 < alive.most / (predicted + transient) < 1.03, recomputed


class FlashAttention(TorchFunctionMode):
    """Attention as a GPU computes it, which keeps no matrix of all pairs of tokens."""

    def __torch_function__(self, function, _types, args=(), kwargs=None):
        if function is not nn.functional.scaled_dot_product_attention:
            return function(*args, **(kwargs or {}))
        heads = (kwargs[name].to(torch.bfloat16) for name in ("query", "key", "value"))
        return torch.ops.aten._scaled_dot_product_flash_attention(*heads)[0]


@contextmanager
def gpu_without_data(*, is_autocast):
    """Inside the `with` block, tensors on "cuda" have no data, and operations keep what they keep on a GPU."""
    try:
        torch.set_autocast_enabled("cuda", is_autocast)  # torch.autocast needs a GPU
        torch.set_autocast_dtype("cuda", torch.bfloat16)
        with FakeTensorMode(allow_non_fake_inputs=True), FlashAttention():
            yield
    finally:
        torch.set_autocast_enabled("cuda", False)


def move_to_gpu_without_data(transformer):
    """As `to` cannot, which keeps the parameters as objects."""
    for module in transformer.modules():
        for name, parameter in module.named_parameters(recurse=False):
            moved = torch.empty_like(parameter, device="cuda")
            module._parameters[name] = nn.Parameter(moved, requires_grad=parameter.requires_grad)


@of_each_family
@pytest.mark.parametrize("engine", ["plain", "fast"])
def test_in_bf16_a_gpu_keeps_what_is_counted_under_autocast_and_without(tiny, engine):
    """The saved tensors of a forward pass, without data. On a CPU, autocast computes other operations in fp32."""
    transformer, kept, is_autocast = with_lora(tiny.folder, "bf16", "plain", "nothing"), {}, engine == "plain"
    requirements = requirements_of(transformer, batch_size=2)
    with gpu_without_data(is_autocast=is_autocast):
        move_to_gpu_without_data(transformer)
        if engine == "fast":
            fuse_lora(transformer)
        parameters = {each.untyped_storage()._cdata for each in transformer.parameters()}
        hooks = lambda tensor: kept.setdefault(tensor.untyped_storage()._cdata, tensor), lambda tensor: tensor
        with torch.autograd.graph.saved_tensors_hooks(*hooks):
            predicted_velocity(transformer, requirements, device="cuda")
    found = sum(tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in parameters)
    counted = most_units(requirements.shape, "nothing", whole_blocks=0, is_autocast=is_autocast)
    assert found / requirements.unit_bytes(BF16) == pytest.approx(counted, rel=0.05)


def test_tokens_of_reference_images_take_what_is_predicted_too(bases):
    transformer, alive = with_lora(bases["klein"], "fp32", "fast", "gelu"), Alive()
    for parameter in lora_parameters(transformer).values():
        parameter.grad = torch.zeros_like(parameter)
    requirements = replace(requirements_of(transformer, batch_size=1), reference_tokens=320)
    with alive:
        predicted_velocity(transformer, requirements).sum().backward()
    predicted = activation_bytes(requirements, recomputed="gelu", value_bytes=FP32, is_autocast=False)
    transient = (requirements.shape.widest + TRANSIENT_UNITS) * requirements.unit_bytes(FP32)
    assert 0.75 < alive.most / (predicted + transient) < 1.03


def test_each_option_keeps_less_than_the_one_before():
    most = [
        most_units(FLUX_DEV, each, whole_blocks=0, is_autocast=False)
        for each in recompute_options("fast", "bf16", "bf16")
    ]
    assert most == sorted(most, reverse=True)
    some = [most_units(FLUX_DEV, "gelu", whole_blocks=count, is_autocast=False) for count in range(58)]
    assert some[1:] == sorted(some[1:], reverse=True)
    assert some[-1] == most[-1]
    assert (
        recompute_options("plain", "bf16", "bf16") == recompute_options("fast", "int8", "int8") == ("nothing", "blocks")
    )
    assert recompute_options("fast", "int8", "bf16") == KEPT
