"""Compilation for generation: each kind of block once, no recompilation for a LoRA or a size, and the same images.

The backend is "eager", which runs the traced graphs and does not spend a minute on kernels.
"""

import functools

import pytest
import torch
from torch._dynamo.utils import counters

from lora.engine.compilation import graphs_compiled
from lora.families.frozen_transformer import WeightPlacement, load_transformer
from lora.formats.reading import convert_lora
from lora.serving import models as models_module
from lora.serving.compiled import compile_for_all_sizes
from lora.serving.int8_transformer import Int8Transformer
from lora.serving.lora_merger import AppliedLora, LoraMerger
from lora.serving.models import Model, Models
from tests.families import FIRST, KLEIN
from tests.lora.serving.test_int8_transformer import SIZES, generated
from tests.tiny import TINY_FLUX, noisy_image, random_lora, tiny_pipeline

KINDS = [(FIRST, "plain"), (FIRST, "8 bits"), (FIRST, "streamed"), (KLEIN, "8 bits")]
CANCELLED = (FIRST, "plain")  # the kind whose first attempt is cancelled, which has nothing to do with the kind
TALL = {"width": 128, "height": 256}
STREAMED = 3  # of six blocks


class ImageGenerator:
    """A pipeline with one kind of transformer."""

    def __init__(self, tiny, kind):
        self.family, self.pipeline = tiny.family.name, tiny.pipeline()
        self.lora = convert_lora(random_lora(self.pipeline.transformer, rank=4), tiny.family.layer_names)
        if kind == "streamed":
            placement = WeightPlacement("fp32", False, torch.device("cpu"), STREAMED)
            self.pipeline.transformer = load_transformer(tiny.folder, placement)
        self.merger = LoraMerger(self.pipeline)
        if kind == "8 bits":
            fast = Int8Transformer(self.pipeline, self.merger, log_line=print)
            self.apply = lambda loras: (self.merger.apply(loras), fast._quantize())
            fast._quantize()
            self.pipeline.transformer = fast._fast
        else:
            self.apply = self.merger.apply


@pytest.fixture(scope="module", params=KINDS, ids=lambda each: f"{each[0].family.name} {each[1]}")
def generators(request):
    """One that is compiled, perhaps after a first attempt that was cancelled, and one that is not."""
    compiled, plain = ImageGenerator(*request.param), ImageGenerator(*request.param)
    with pytest.MonkeyPatch.context() as patch:
        torch._dynamo.reset()
        counters.clear()
        if request.param == CANCELLED:
            with_backend(patch, cancelled)
            with pytest.raises(KeyboardInterrupt):
                compile_for_all_sizes(compiled.pipeline, log_line=pytest.fail)
        with_backend(patch, "eager")
        compile_for_all_sizes(compiled.pipeline, log_line=pytest.fail)
    yield compiled, plain
    torch._dynamo.reset()


def with_backend(patch, backend):
    patch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))


def cancelled(*_graph):
    """A backend that is cancelled while it compiles."""
    raise KeyboardInterrupt


def no_kernels(*_graph):
    raise NotImplementedError("no kernels for this chip")


def test_each_kind_of_block_is_compiled_once(generators):
    """In FLUX.1, one kind is compiled twice: its input has another memory layout after a block of the other kind."""
    compiled, _ = generators
    assert counters["stats"]["unique_graphs"] == {"FLUX.1": 3, "FLUX.2 [klein]": 2}[compiled.family]


@pytest.mark.parametrize(("size", "scale"), [(SIZES[0], 0.0), *((size, 1.0) for size in (*SIZES, TALL))])
def test_no_lora_and_no_size_causes_a_recompilation(generators, size, scale):
    compiled, plain = generators
    for generator in generators:
        generator.apply([AppliedLora("a", generator.lora, scale, "a")])
    before = graphs_compiled()
    found = generated(compiled.pipeline, **size)
    assert graphs_compiled() == before
    assert torch.equal(found, generated(plain.pipeline, **size))


@pytest.mark.parametrize("sizes", [[(64, 64)], [(80, 64), (64, 112)]], ids=["one", "two"])
@pytest.mark.parametrize("generators", KINDS[-1:], indirect=True, ids=["FLUX.2 8 bits"])
def test_no_reference_image_causes_a_recompilation(generators, sizes):
    compiled, plain = generators
    before, shown = graphs_compiled(), [noisy_image(*size) for size in sizes]
    found = generated(compiled.pipeline, image=shown)
    assert graphs_compiled() == before
    assert torch.equal(found, generated(plain.pipeline, image=shown))


def test_a_compiler_that_fails_logs_one_line_and_the_image_is_generated(monkeypatch):
    pipeline, lines = tiny_pipeline(), []
    before = generated(pipeline)
    with_backend(monkeypatch, no_kernels)
    compile_for_all_sizes(pipeline, log_line=lines.append)
    (line,) = lines
    assert line.startswith("torch.compile failed, so blocks are not compiled: ")
    assert "no kernels for this chip" in line
    assert "\n" not in line
    assert torch.equal(generated(pipeline), before)


def test_a_compiler_that_fails_at_a_later_call_logs_one_line_and_the_image_is_generated(monkeypatch):
    """For example at its recompile limit."""
    pipeline, lines = tiny_pipeline(), []
    before = generated(pipeline)
    with_backend(monkeypatch, "eager")
    compile_for_all_sizes(pipeline, log_line=lines.append)
    assert lines == []
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=0):
        assert torch.equal(generated(pipeline), before)
    (line,) = lines
    assert line.startswith("torch.compile failed, so blocks are not compiled: ")


@pytest.mark.parametrize(
    ("engine", "kind", "expected"), [("fast", "cuda", 1), ("plain", "cuda", 0), ("fast", "cpu", 0)]
)
def test_a_model_is_compiled_on_a_gpu_unless_the_plain_engine_is_chosen(monkeypatch, engine, kind, expected):
    """The GPU is only a device name here, and compilations are counted instead of run."""
    compiled = []
    monkeypatch.setattr(models_module, "device", lambda: torch.device(kind))
    monkeypatch.setattr(models_module, "compile_for_all_sizes", lambda pipeline, log_line: compiled.append(pipeline))
    model = Model(TINY_FLUX, engine, print)
    assert compiled == [model.pipeline] * expected


def test_an_unknown_engine_is_refused_before_a_model_is_loaded(monkeypatch):
    monkeypatch.setenv("FLUX_ENGINE", "warp")
    with pytest.raises(ValueError, match="FLUX_ENGINE is 'warp': expected plain or fast"):
        Models(print)
