"""The counted activations are those that autograd keeps, for each recompute option; measured on a CPU, not on CUDA."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lora.base.prompt import Prompt
from lora.base.transformer import spaced_blocks
from lora.engine.checkpointing import configure_blocks
from lora.engine.lora_layers import fuse_lora
from lora.families.frozen_transformer import WeightPlacement, load_transformer
from lora.families.registry import family_of_model
from lora.flux.dimensions import dimensions_of
from lora.training.learning.adapter import add_lora
from lora.training.memory.activations import KEPT, OUTER, most_units, recompute_options
from lora.training.memory.prediction import TRANSIENT_UNITS, MemoryRequirements, activation_bytes
from tests.random_klein import random_klein_transformer
from tests.tiny import FLUX_DEV_CONFIG, TINY_FLUX, all_layers, lora_parameters, save_transformer, tiny_transformer

CPU = torch.device("cpu")
FLUX_DEV = dimensions_of(FLUX_DEV_CONFIG)
FP32 = 4
OPERATIONS_BETWEEN_COUNTS = 3


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """The folders of all small transformers."""
    folder = tmp_path_factory.mktemp("base")
    save_transformer(tiny_transformer(), folder)
    klein = tmp_path_factory.mktemp("klein")
    save_transformer(random_klein_transformer(), klein)
    return {"tiny": folder, "tiny-flux": TINY_FLUX, "klein": klein}


class Alive(TorchDispatchMode):
    """Counts the bytes of the live tensors that operations created, and their peak."""

    def __init__(self):
        super().__init__()
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}
        self._calls, self.most = 0, 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        made = operation(*args, **(kwargs or {}))
        is_view = any(each.alias_info is not None for each in operation._schema.returns)  # or written in place
        for tensor in () if is_view else tree_leaves(made):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self._made[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self._calls += 1
        if self._calls % OPERATIONS_BETWEEN_COUNTS == 0:
            self.most = max(self.most, self.now())
        return made

    def now(self) -> int:
        self._made = {key: each for key, each in self._made.items() if not each[0].expired()}
        return sum(size for _, size in self._made.values())


def requirements_of(transformer, batch_size):
    return MemoryRequirements(
        family_of_model(transformer).transformer.dimensions(transformer.config),
        256,
        128,
        batch_size,
        0,
        0.0,
        (),
        0,
        False,
        False,
        0,
        1,
        (),
    )


def predict(transformer, requirements):
    """A prediction with this number of tokens."""
    config, family = transformer.config, family_of_model(transformer)
    patch = family.latents.patch
    side, batch_size = int(requirements.image_tokens**0.5) * patch, requirements.batch_size
    pooled = torch.randn(batch_size, config.pooled_projection_dim) if "pooled_projection_dim" in config else None
    prompt = Prompt(torch.randn(batch_size, requirements.text_tokens, config.joint_attention_dim), pooled)
    noisy, sigmas = torch.randn(batch_size, config.in_channels // patch**2, side, side), torch.full((batch_size,), 0.5)
    given = {"sigmas": sigmas, "prompt": prompt, "guidance": 1.0}
    if tokens := requirements.reference_tokens:
        given["references"] = (torch.randn(batch_size, config.in_channels, 1, tokens),)
    return family.transformer.predict_velocity(transformer, noisy, **given)


def with_lora(base, precision, engine, recomputed, whole):
    """A transformer with a LoRA whose gradients exist already, so that only activations are counted."""
    transformer = load_transformer(base, WeightPlacement(precision, False, CPU))
    add_lora(transformer, layers=all_layers(transformer), rank=4, seed=0)
    if engine == "fast":
        fuse_lora(transformer)
    configure_blocks(transformer, recomputed, are_compiled=False, whole=spaced_blocks(transformer, whole))
    for parameter in lora_parameters(transformer).values():
        parameter.grad = torch.zeros_like(parameter)
    return transformer


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
        transformer = with_lora(bases[name], precision, engine, recomputed, whole)
        requirements, alive = requirements_of(transformer, batch_size), Alive()
        with alive:
            output = predict(transformer, requirements)
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


def test_tokens_of_reference_images_take_what_is_predicted_too(bases):
    transformer, alive = with_lora(bases["klein"], "fp32", "fast", "gelu", 0), Alive()
    requirements = replace(requirements_of(transformer, 1), reference_tokens=320)
    with alive:
        predict(transformer, requirements).sum().backward()
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
