"""Compiled blocks: one graph for each class of block, for all sizes, with the same gradients.

Most tests run the graphs as they were traced, which saves the minute that generating kernels takes.
"""

import functools
from dataclasses import dataclass

import pytest
import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.utils import counters

from lora.engine.checkpointing import configure_blocks
from lora.engine.compilation import can_be_compiled
from lora.engine.options import Recomputed
from lora.flux import frozen_transformer
from lora.flux.frozen_transformer import WeightPlacement, load_transformer
from lora.flux.modulation import Conditions, PrecomputedModulation
from lora.flux.prompt import Prompt
from lora.training.learning.batches import Batch
from lora.training.learning.losses import TRAINING_GUIDANCE
from tests.lora.engine.comparing import (
    CPU,
    LossInputs,
    error,
    fused,
    loss_and_gradients,
    small,
    small_inputs,
    with_lora,
)
from tests.tiny import tiny_example

FP32 = torch.float32


@dataclass(frozen=True)
class Variant:
    """A placement of the weights, and a checkpointing option."""

    placement: WeightPlacement
    recomputed: Recomputed


VARIANTS = {
    "fp32": Variant(WeightPlacement("fp32", False, CPU), "nothing"),
    "nf4": Variant(WeightPlacement("nf4", False, CPU), "blocks"),
    "8 bits, modulation on the host, blocks streamed": Variant(WeightPlacement("int8", True, CPU, 3), "blocks"),
}


@pytest.fixture(scope="module", params=VARIANTS.values(), ids=VARIANTS)
def compiled_and_eager(request, base):
    """A transformer with compiled blocks, and the same without."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
        patch.setattr(frozen_transformer, "supports_int8_matmul", lambda *_: True)  # as on a GPU
        counters.clear()
        variant = request.param
        yield [configured(load_transformer(base, variant.placement), variant, compiled) for compiled in (True, False)]
    torch._dynamo.reset()


def configured(transformer, variant, are_compiled):
    transformer = fused(with_lora(transformer))
    configure_blocks(transformer, variant.recomputed, are_compiled=are_compiled)
    return transformer


def larger_inputs():
    """More images, each of them larger and not square."""
    examples = [tiny_example(seed=seed, height=12, width=16) for seed in range(3)]
    latents = torch.stack([example.latents for example in examples])
    batch = Batch(latents, Prompt.stack([example.prompt for example in examples]))
    return LossInputs(
        batch, torch.randn(latents.shape, generator=torch.Generator().manual_seed(4)), torch.tensor([0.1, 0.5, 0.9])
    )


def precomputed_result(transformer, inputs):
    """As in training, with precomputed outputs of modulation layers on the host."""
    conditions = Conditions(inputs.sigmas, inputs.batch.prompt.pooled)
    ahead = PrecomputedModulation(transformer, batch_size=len(inputs.sigmas))
    with ahead.precomputed(0, {0: conditions}.get, guidance=TRAINING_GUIDANCE):
        return loss_and_gradients(transformer, inputs)


def test_each_class_of_block_is_one_graph_for_all_sizes_with_the_same_gradients(compiled_and_eager):
    compiled, eager = compiled_and_eager
    assert_same(precomputed_result(compiled, small_inputs()), precomputed_result(eager, small_inputs()))
    assert counters["stats"]["unique_graphs"] == 2
    with torch._dynamo.config.patch(error_on_recompile=True):
        assert_same(precomputed_result(compiled, larger_inputs()), precomputed_result(eager, larger_inputs()))
    assert counters["stats"]["unique_graphs"] == 2


def assert_same(found, expected):
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    assert error(found, expected) < 1e-5


def test_generated_kernels_compute_the_same():
    transformer = fused(small(FP32))
    configure_blocks(transformer, "blocks", are_compiled=True)
    for inputs in (small_inputs(), larger_inputs()):
        assert_same(loss_and_gradients(transformer, inputs), loss_and_gradients(fused(small(FP32)), inputs))
    torch._dynamo.reset()


def fail_to_compile(*_):
    raise NotImplementedError("no kernels for this chip")


def run_as_traced(graph, _):
    return make_boxed_func(graph.forward)


def fails_at_the_second_graph():
    """A compiler that succeeds for double blocks and fails for single blocks."""
    graphs = []

    def compile_forward(graph, inputs):
        graphs.append(graph)
        return run_as_traced(graph, inputs) if len(graphs) == 1 else fail_to_compile()

    return aot_autograd(fw_compiler=compile_forward, bw_compiler=run_as_traced)


@pytest.mark.parametrize(
    "failing",
    [
        lambda: fail_to_compile,
        lambda: aot_autograd(fw_compiler=run_as_traced, bw_compiler=fail_to_compile),
        fails_at_the_second_graph,
    ],
    ids=["at all", "for the backward pass", "for the second kind of block"],
)
def test_a_compiler_that_fails_costs_a_warning_and_not_the_training(monkeypatch, failing):
    backend = failing()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    transformer = fused(small(FP32))
    configure_blocks(transformer, "blocks", are_compiled=True)
    with pytest.warns(UserWarning, match="blocks are not compiled: .*no kernels for this chip"):
        found = loss_and_gradients(transformer, small_inputs())
    assert_same(found, loss_and_gradients(fused(small(FP32)), small_inputs()))


def test_blocks_are_compiled_on_a_gpu_and_not_on_a_cpu():
    assert can_be_compiled(torch.device("cuda:1"))
    assert not can_be_compiled(CPU)
