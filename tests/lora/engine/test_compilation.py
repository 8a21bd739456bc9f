"""Compiled blocks: one graph for each class of block, none for another size, and the same gradients.

Mostly without the minute in which kernels are written: graphs are run as they were recorded.
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
from lora.flux import frozen_transformer as holding
from lora.flux.frozen_transformer import WeightPlacement, load_transformer
from lora.flux.modulation import Conditions, PrecomputedModulation
from lora.flux.prompt import Prompt
from lora.training.learning.batches import Batch
from lora.training.learning.losses import TRAINING_GUIDANCE
from tests.lora.engine.comparing import CPU, Question, answer, dressed, error, fused, small, small_question
from tests.tiny import tiny_example

FP32 = torch.float32


@dataclass(frozen=True)
class Way:
    """How a transformer is held and computed."""

    held: WeightPlacement
    recomputed: Recomputed


WAYS = {
    "in full": Way(WeightPlacement("fp32", False, CPU), "nothing"),
    "nf4": Way(WeightPlacement("nf4", False, CPU), "blocks"),
    "8 bits, modulation on the host, blocks streamed": Way(WeightPlacement("int8", True, CPU, 3), "blocks"),
}


@pytest.fixture(scope="module", params=WAYS.values(), ids=WAYS)
def contenders(request, base):
    """Compiled, and as it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
        patch.setattr(holding, "supports_int8_matmul", lambda *_: True)  # as on a GPU
        counters.clear()
        yield [on(load_transformer(base, request.param.held), request.param, compiled) for compiled in (True, False)]
    torch._dynamo.reset()


def on(transformer, way, are_compiled):
    transformer = fused(dressed(transformer))
    configure_blocks(transformer, way.recomputed, are_compiled=are_compiled)
    return transformer


def larger_question():
    """More pictures, each of them larger and not square."""
    examples = [tiny_example(seed=seed, height=12, width=16) for seed in range(3)]
    latents = torch.stack([example.latents for example in examples])
    batch = Batch(latents, Prompt.stack([example.prompt for example in examples]))
    return Question(
        batch, torch.randn(latents.shape, generator=torch.Generator().manual_seed(4)), torch.tensor([0.1, 0.5, 0.9])
    )


def answer_ahead(transformer, question):
    """As a training asks: modulation layers on the host have answered beforehand."""
    seen = Conditions(question.sigmas, question.batch.prompt.pooled)
    ahead = PrecomputedModulation(transformer, batch_size=len(question.sigmas))
    with ahead.precomputed(0, {0: seen}.get, guidance=TRAINING_GUIDANCE):
        return answer(transformer, question)


def test_each_class_of_block_is_one_graph_for_all_sizes_with_the_same_gradients(contenders):
    compiled, plain = contenders
    assert_same(answer_ahead(compiled, small_question()), answer_ahead(plain, small_question()))
    assert counters["stats"]["unique_graphs"] == 2
    with torch._dynamo.config.patch(error_on_recompile=True):
        assert_same(answer_ahead(compiled, larger_question()), answer_ahead(plain, larger_question()))
    assert counters["stats"]["unique_graphs"] == 2


def assert_same(found, expected):
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    assert error(found, expected) < 1e-5


def test_kernels_that_the_compiler_writes_compute_the_same():
    transformer = fused(small(FP32))
    configure_blocks(transformer, "blocks", are_compiled=True)
    for question in (small_question(), larger_question()):
        assert_same(answer(transformer, question), answer(fused(small(FP32)), question))
    torch._dynamo.reset()


def no_kernels(*_):
    raise NotImplementedError("no kernels for this chip")


def as_recorded(graph, _):
    return make_boxed_func(graph.forward)


def from_the_second_graph_on():
    """As where double blocks have been compiled and single blocks cannot be."""
    seen = []

    def compile_forward(graph, inputs):
        seen.append(graph)
        return as_recorded(graph, inputs) if len(seen) == 1 else no_kernels()

    return aot_autograd(fw_compiler=compile_forward, bw_compiler=as_recorded)


@pytest.mark.parametrize(
    "failing",
    [
        lambda: no_kernels,
        lambda: aot_autograd(fw_compiler=as_recorded, bw_compiler=no_kernels),
        from_the_second_graph_on,
    ],
    ids=["at all", "for the backward pass", "for the second kind of block"],
)
def test_a_compiler_that_fails_costs_a_warning_and_not_the_training(monkeypatch, failing):
    backend = failing()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    transformer = fused(small(FP32))
    configure_blocks(transformer, "blocks", are_compiled=True)
    with pytest.warns(UserWarning, match="blocks are not compiled: .*no kernels for this chip"):
        found = answer(transformer, small_question())
    assert_same(found, answer(fused(small(FP32)), small_question()))


def test_blocks_are_compiled_on_a_gpu_and_not_on_a_cpu():
    assert can_be_compiled(torch.device("cuda:1"))
    assert not can_be_compiled(CPU)
