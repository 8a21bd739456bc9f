"""Compiled blocks: one graph for each class of block, none for another size, and the same gradients.

Without the minute in which kernels are written, and that in which backward passes are traced: graphs are run as they
were recorded.
"""

import functools

import pytest
import torch
from torch._dynamo.utils import counters

from lora.flux.engine.blocks import compute_blocks
from lora.flux.prompt import Prompt
from lora.training.learning.batches import Batch
from tests.lora.flux.engine.comparing import Question, answer, error, fused, small, small_question
from tests.tiny import tiny_example

FP32 = torch.float32


@pytest.fixture(scope="module", params=["nothing", "blocks"])
def compiled(request):
    """A transformer on a rung."""
    transformer = fused(small(FP32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
        counters.clear()
        compute_blocks(transformer, request.param, are_compiled=True)
    yield transformer
    torch._dynamo.reset()


def larger_question():
    """More pictures, each of them larger and not square."""
    examples = [tiny_example(seed=seed, height=12, width=16) for seed in range(3)]
    latents = torch.stack([example.latents for example in examples])
    batch = Batch(latents, Prompt.stack([example.prompt for example in examples]))
    return Question(
        batch, torch.randn(latents.shape, generator=torch.Generator().manual_seed(4)), torch.tensor([0.1, 0.5, 0.9])
    )


def test_each_class_of_block_is_one_graph_for_all_sizes_with_the_same_gradients(compiled):
    transformer = compiled
    plain = fused(small(FP32))
    assert_same(answer(transformer, small_question()), answer(plain, small_question()))
    assert counters["stats"]["unique_graphs"] == 2
    with torch._dynamo.config.patch(error_on_recompile=True):
        assert_same(answer(transformer, larger_question()), answer(plain, larger_question()))
    assert counters["stats"]["unique_graphs"] == 2


def assert_same(found, expected):
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    assert error(found, expected) < 1e-5


def test_a_compiler_that_fails_costs_a_warning_and_not_the_training(monkeypatch):
    def broken(*_):
        raise NotImplementedError("no kernels for this chip")

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=broken))
    transformer = fused(small(FP32))
    compute_blocks(transformer, "blocks", are_compiled=True)
    with pytest.warns(UserWarning, match="blocks are not compiled: .*no kernels for this chip"):
        found = answer(transformer, small_question())
    assert_same(found, answer(fused(small(FP32)), small_question()))
