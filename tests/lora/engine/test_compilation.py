"""Compiled blocks: one graph for each class of block, for all sizes, with the same gradients.

Most tests run the graphs as they were traced, which saves the minute that generating kernels takes.
"""

import functools
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest
import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.utils import counters

from lora.base.modulation import Conditions
from lora.base.transformer import spaced_blocks
from lora.engine.checkpointing import configure_blocks
from lora.engine.compilation import can_be_compiled, graphs_compiled
from lora.engine.options import Recomputed
from lora.families.frozen_transformer import WeightPlacement, load_transformer
from lora.families.registry import family_of_model, precomputed_modulation
from lora.training.learning.adapter import add_lora
from lora.training.learning.losses import TRAINING_GUIDANCE
from tests.lora.engine.comparing import (
    CPU,
    FLUX1,
    FLUX2,
    MODELS,
    LossAndGradients,
    SmallModel,
    error,
    fused,
    inputs_of,
    loss_and_gradients,
    small_inputs,
    with_lora,
)
from tests.tiny import lora_parameters, randomize_lora, save_transformer, tiny_transformer


@dataclass(frozen=True)
class Variant:
    """A placement of the weights, and a checkpointing option."""

    placement: WeightPlacement
    recomputed: Recomputed
    whole: int = 0  # blocks that are recomputed as a whole
    model: SmallModel = FLUX1

    @property
    def graphs(self) -> int:
        """One for each class of block, and one more if only some of its blocks are recomputed as a whole."""
        return 4 if self.whole else 2

    @property
    def tolerance(self) -> float:
        """Generated kernels round bf16 in fewer places, and sums that differ in fp32 may be rounded to another code."""
        return {"bf16": 2e-2, "int8": 1e-3}.get(self.placement.precision, 1e-5)


OF_FLUX1 = {
    "fp32": Variant(WeightPlacement("fp32", False, CPU), "pointwise"),
    "bf16, some blocks whole": Variant(WeightPlacement("bf16", False, CPU), "gelu", whole=2),
    "nf4": Variant(WeightPlacement("nf4", False, CPU), "nothing"),
    "int8, modulation on the host, blocks streamed": Variant(WeightPlacement("int8", True, CPU, 3, "int8"), "blocks"),
}
VARIANTS = OF_FLUX1 | {f"FLUX.2, {name}": replace(variant, model=FLUX2) for name, variant in OF_FLUX1.items()}
TRACED_IN_EVERY_RUN = (*OF_FLUX1, "FLUX.2, fp32")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(variant, id=name, marks=[] if name in TRACED_IN_EVERY_RUN else pytest.mark.long)
        for name, variant in VARIANTS.items()
    ],
)
def variant(request):
    return request.param


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """The folder of each family's small transformer."""
    folders = {model: tmp_path_factory.mktemp("base") for model in MODELS}
    for model, folder in folders.items():
        save_transformer(model.transformer(), folder)
    return folders


@pytest.fixture(scope="module")
def compiled_and_eager(variant, bases):
    """A transformer with compiled blocks, and the same without; graphs run as they were traced."""
    with traced_only():
        yield compiled_and_not(variant, bases)
    torch._dynamo.reset()


@contextmanager
def traced_only():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
        yield


def compiled_and_not(variant, bases):
    return [
        configured(load_transformer(bases[variant.model], variant.placement), variant, compiled)
        for compiled in (True, False)
    ]


def configured(transformer, variant, are_compiled):
    transformer = fused(with_lora(transformer))
    whole = spaced_blocks(transformer, variant.whole)
    configure_blocks(transformer, variant.recomputed, are_compiled=are_compiled, whole=whole)
    return transformer


def images(model, count, *, height=8, width=8):
    """Inputs of this many images of this size in latents of FLUX.1."""
    examples = [model.example(seed=seed, height=height, width=width) for seed in range(count)]
    return inputs_of(examples, torch.linspace(0.1, 0.9, count), seed=4)


IN_EVERY_RUN = ("int8, modulation on the host, blocks streamed", "one image at a time")
LARGER = {"height": 12, "width": 16}
# Images of the smaller and of the larger size. Three have 17 tokens of text or more, as an int8 matmul needs.
SIZES = {"batches": (3, 4), "one image at a time": (1, 1)}


def precomputed_result(transformer, inputs):
    """As in training, with precomputed outputs of modulation layers on the host."""
    conditions = Conditions(inputs.sigmas, inputs.batch.prompt.pooled)
    ahead = precomputed_modulation(transformer, batch_size=len(inputs.sigmas))
    with ahead.precomputed(0, {0: conditions}.get, guidance=TRAINING_GUIDANCE):
        return loss_and_gradients(transformer, inputs)


@pytest.mark.parametrize("size", SIZES)
def test_each_class_of_block_is_one_graph_for_all_sizes_with_the_same_gradients(variant, compiled_and_eager, size):
    assert_compiled_once(variant, compiled_and_eager, size)
    if family_of_model(compiled_and_eager[0]).transformer.takes_references:
        assert_same_with_references(variant, compiled_and_eager, size)


@pytest.mark.parametrize(
    ("variant", "size"),
    [
        pytest.param(variant, size, id=f"{name}-{size}", marks=[] if (name, size) == IN_EVERY_RUN else pytest.mark.long)
        for name, variant in VARIANTS.items()
        for size in SIZES
    ],
)
def test_generated_kernels_compute_the_same(variant, size, bases):
    """Generating them takes from half a minute to two, hence only one case is in every run."""
    assert_compiled_once(variant, compiled_and_not(variant, bases), size)
    torch._dynamo.reset()


def assert_compiled_once(variant, compiled_and_eager, size):
    (compiled, eager), (few, many) = compiled_and_eager, SIZES[size]
    first, second = images(variant.model, few), images(variant.model, many, **LARGER)
    counters.clear()
    with warnings.catch_warnings(record=True) as warned:
        assert_same(precomputed_result(compiled, first), precomputed_result(eager, first), tolerance=variant.tolerance)
    assert not [str(each.message) for each in warned if "not compiled" in str(each.message)]
    assert graphs_compiled() == variant.graphs
    assert_same(precomputed_result(compiled, second), precomputed_result(eager, second), tolerance=variant.tolerance)
    assert graphs_compiled() == variant.graphs, "another size is compiled again"


def assert_same_with_references(variant, compiled_and_eager, size):
    """Of any number and size, by the same graphs."""
    inputs, before = images(variant.model, SIZES[size][0]), graphs_compiled()
    for sizes in ([(3, 5)], [(8, 8), (6, 7)]):
        shown = tuple(torch.randn(*inputs.noise.shape[:2], *each) for each in sizes)
        found, expected = (result_with_references(each, inputs, shown) for each in compiled_and_eager)
        assert_same(found, expected, tolerance=variant.tolerance)
    assert graphs_compiled() == before


def result_with_references(transformer, inputs, references):
    """A loss and its gradients beside the latents of reference images."""
    transformer.zero_grad()
    velocity = family_of_model(transformer).transformer.predict_velocity(
        transformer,
        inputs.noise,
        sigmas=inputs.sigmas,
        prompt=inputs.batch.prompt,
        guidance=TRAINING_GUIDANCE,
        references=references,
    )
    loss = velocity.square().mean()
    loss.backward()
    return LossAndGradients(loss.item(), {name: each.grad for name, each in lora_parameters(transformer).items()})


def assert_same(found, expected, *, tolerance=1e-5):
    assert found.loss == pytest.approx(expected.loss, rel=tolerance)
    assert error(found, expected) < tolerance


def with_one_lora(*, double_blocks=False):
    """Two single blocks with a LoRA on one layer, perhaps after two double ones, whose tracing takes twice as long."""
    transformer = tiny_transformer()
    if not double_blocks:
        transformer.transformer_blocks = torch.nn.ModuleList()
    kinds = ("transformer_blocks.{}.attn.to_q", "single_transformer_blocks.{}.proj_mlp")
    layers = [kind.format(number) for kind in kinds for number in (0, 1)]
    add_lora(transformer, layers=layers, rank=4, seed=0)
    randomize_lora(transformer, spread=0.02)
    return fused(transformer)


def fail_to_compile(*_):
    raise NotImplementedError("no kernels for this chip")


def fail_to_launch(*_):
    return make_boxed_func(fail_to_compile)


def run_out_of_memory(*_):
    raise torch.OutOfMemoryError("CUDA out of memory")


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
    ("failing", "double_blocks"),
    [
        (lambda: fail_to_compile, False),
        (lambda: aot_autograd(fw_compiler=run_as_traced, bw_compiler=fail_to_compile), False),
        (fails_at_the_second_graph, True),
        (lambda: aot_autograd(fw_compiler=fail_to_launch, bw_compiler=run_as_traced), False),
        (lambda: aot_autograd(fw_compiler=run_as_traced, bw_compiler=fail_to_launch), False),
    ],
    ids=["at all", "for the backward pass", "for the second kind of block", "when run", "when run backward"],
)
def test_a_compiler_that_fails_costs_a_warning_and_not_the_training(monkeypatch, failing, double_blocks):
    backend = failing()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    transformer = with_one_lora(double_blocks=double_blocks)
    configure_blocks(transformer, "blocks", are_compiled=True)
    with pytest.warns(UserWarning, match="blocks are not compiled: .*no kernels for this chip"):
        found = loss_and_gradients(transformer, small_inputs())
    assert_same(found, loss_and_gradients(with_one_lora(double_blocks=double_blocks), small_inputs()))


def test_running_out_of_memory_is_not_taken_for_a_compiler_that_fails(monkeypatch):
    """So that another memory configuration is tried; blocks that run eagerly would need more."""
    failing = aot_autograd(fw_compiler=lambda *_: make_boxed_func(run_out_of_memory), bw_compiler=run_as_traced)
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=failing))
    transformer = with_one_lora()
    configure_blocks(transformer, "blocks", are_compiled=True)
    with pytest.raises(torch.OutOfMemoryError):
        loss_and_gradients(transformer, small_inputs())


def test_blocks_are_compiled_on_a_gpu_and_not_on_a_cpu():
    assert can_be_compiled(torch.device("cuda:1"))
    assert not can_be_compiled(CPU)
