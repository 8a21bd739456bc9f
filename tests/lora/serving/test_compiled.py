"""Compiled for drawing: each kind of block once, no LoRA and no size anew, and the same pictures.

Without the minute in which kernels are written: graphs are run as they were traced.
"""

import functools

import pytest
import torch
from torch._dynamo.utils import counters

from lora.flux.frozen_transformer import WeightPlacement, load_transformer
from lora.formats.reading import convert_lora
from lora.serving import models as models_module
from lora.serving.compiled import compile_for_all_sizes
from lora.serving.int8_transformer import Int8Transformer
from lora.serving.lora_merger import AppliedLora, LoraMerger
from lora.serving.models import Model, Models
from tests.lora.serving.test_int8_transformer import SIZES, drawn
from tests.tiny import TINY_FLUX, random_lora, tiny_pipeline

KINDS = ("plain", "8 bits", "streamed")
STREAMED = 3  # of six blocks


@pytest.fixture(scope="module")
def lora():
    return convert_lora(random_lora(tiny_pipeline().transformer, rank=4))


class Drawer:
    """A pipeline that draws with the transformer of one kind."""

    def __init__(self, kind):
        self.pipeline = tiny_pipeline()
        if kind == "streamed":
            held = WeightPlacement("fp32", False, torch.device("cpu"), STREAMED)
            self.pipeline.transformer = load_transformer(TINY_FLUX, held)
        self.merger = LoraMerger(self.pipeline)
        if kind == "8 bits":
            fast = Int8Transformer(self.pipeline, self.merger, say=print)
            self.wear = lambda outfit: (self.merger.wear(outfit), fast._round())
            fast._round()
            self.pipeline.transformer = fast._fast
        else:
            self.wear = self.merger.wear


@pytest.fixture(scope="module", params=KINDS)
def contenders(request):
    """Compiled, after a first try that was cancelled; and as it is."""
    compiled, plain = Drawer(request.param), Drawer(request.param)
    with pytest.MonkeyPatch.context() as patch:
        torch._dynamo.reset()
        counters.clear()
        with_backend(patch, cancelled)
        with pytest.raises(KeyboardInterrupt):
            compile_for_all_sizes(compiled.pipeline, say=pytest.fail)
        with_backend(patch, "eager")
        compile_for_all_sizes(compiled.pipeline, say=pytest.fail)
    yield compiled, plain
    torch._dynamo.reset()


def with_backend(patch, backend):
    patch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))


def cancelled(*_graph):
    """A compiler in whose midst a cancel comes."""
    raise KeyboardInterrupt


def no_kernels(*_graph):
    raise NotImplementedError("no kernels for this chip")


def test_each_kind_of_block_is_compiled_once(contenders):  # noqa: ARG001
    """And one of them twice: what a block gets from its like lies otherwise in memory than from another kind."""
    assert counters["stats"]["unique_graphs"] == 3


@pytest.mark.parametrize("scale", [0.0, 1.0])
@pytest.mark.parametrize("size", [*SIZES, {"width": 128, "height": 256}])
def test_no_lora_and_no_size_compiles_anything_anew(contenders, lora, size, scale):
    compiled, plain = contenders
    for drawer in contenders:
        drawer.wear([AppliedLora("a", lora, scale, "a")])
    with torch._dynamo.config.patch(error_on_recompile=True):
        found = drawn(compiled.pipeline, **size)
    assert torch.equal(found, drawn(plain.pipeline, **size))


def test_a_compiler_that_fails_costs_a_line_and_no_picture(monkeypatch):
    pipeline, said = tiny_pipeline(), []
    before = drawn(pipeline)
    with_backend(monkeypatch, no_kernels)
    compile_for_all_sizes(pipeline, say=said.append)
    (line,) = said
    assert line.startswith("blocks are not compiled: ")
    assert "no kernels for this chip" in line
    assert "\n" not in line
    assert torch.equal(drawn(pipeline), before)


def test_a_compiler_that_fails_later_costs_a_line_and_no_picture_either(monkeypatch):
    """As where it gives up on one more kind of input."""
    pipeline, said = tiny_pipeline(), []
    before = drawn(pipeline)
    with_backend(monkeypatch, "eager")
    compile_for_all_sizes(pipeline, say=said.append)
    assert said == []
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=0):
        assert torch.equal(drawn(pipeline), before)
    (line,) = said
    assert line.startswith("blocks are not compiled: ")


@pytest.mark.parametrize(
    ("engine", "kind", "expected"), [("fast", "cuda", 1), ("plain", "cuda", 0), ("fast", "cpu", 0)]
)
def test_a_model_is_compiled_on_a_gpu_unless_the_plain_engine_is_asked_for(monkeypatch, engine, kind, expected):
    """The GPU is a name here: nothing is compiled but counted."""
    compiled = []
    monkeypatch.setattr(models_module, "device", lambda: torch.device(kind))
    monkeypatch.setattr(models_module, "compile_for_all_sizes", lambda pipeline, say: compiled.append(pipeline))
    model = Model(TINY_FLUX, engine, print)
    assert compiled == [model.pipeline] * expected


def test_an_engine_that_nobody_knows_is_refused_before_anything_is_loaded(monkeypatch):
    monkeypatch.setenv("FLUX_ENGINE", "warp")
    with pytest.raises(ValueError, match="FLUX_ENGINE is 'warp': expected plain or fast"):
        Models(print)
