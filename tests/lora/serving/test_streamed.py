"""A base with streamed blocks gives the same images and weights, bit for bit, as a base that is on the device."""

from types import SimpleNamespace

import pytest
import torch

from lora.engine.streaming import is_streamed, stored_weight
from lora.families import loading
from lora.families.frozen_transformer import WeightPlacement, load_transformer
from lora.families.loading import load_pipeline
from lora.families.placement import DeviceMap
from lora.formats.reading import convert_lora
from lora.serving.int8_transformer import Int8Transformer
from lora.serving.lora_merger import AppliedLora, LoraMerger
from tests.families import FIRST, KLEIN
from tests.lora.serving.test_int8_transformer import generated
from tests.tiny import TINY_FLUX, assert_one_sentence, noisy_image, random_lora

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def loras(tiny, pipeline):
    names = tiny.family.layer_names
    return {name: convert_lora(random_lora(pipeline.transformer, seed=seed), names) for seed, name in enumerate("ab")}


def with_merger(tiny, streamed):
    """Return a pipeline with this number of streamed blocks, and its LoraMerger."""
    pipeline = tiny.pipeline()
    pipeline.transformer = load_transformer(tiny.folder, WeightPlacement("fp32", False, CPU, streamed))
    return SimpleNamespace(pipeline=pipeline, merger=LoraMerger(pipeline))


@pytest.fixture(scope="module")
def streaming(tiny, request):
    """With some or all of its six blocks streamed."""
    return with_merger(tiny, request.param)


@pytest.fixture(scope="module")
def on_device(tiny):
    return with_merger(tiny, 0)


@pytest.mark.parametrize(
    ("tiny", "streaming"), [(FIRST, 1), (FIRST, 4), (FIRST, 6), (KLEIN, 6)], indirect=["tiny", "streaming"]
)
def test_images_are_the_same_whatever_is_applied_and_was_applied_before(streaming, on_device, loras):
    """Copies on the device that are older than the last write are never used."""
    for scales in ({}, {"a": 1.0}, {"b": -0.5, "a": 2.0}, {"a": 1.0}, {"a": 0.5}, {}):
        for each in (streaming, on_device):
            each.merger.apply([AppliedLora(name, loras[name], scale, name) for name, scale in scales.items()])
        assert torch.equal(generated(streaming.pipeline), generated(on_device.pipeline))
    assert streaming.merger.is_intact


@pytest.mark.parametrize(("tiny", "streaming"), [(KLEIN, 5)], indirect=["tiny", "streaming"])
def test_images_beside_reference_images_are_the_same(streaming, on_device):
    shown = [noisy_image(80, 64), noisy_image(64, 112)]
    assert torch.equal(generated(streaming.pipeline, image=shown), generated(on_device.pipeline, image=shown))


@pytest.mark.parametrize("error", [KeyboardInterrupt, torch.OutOfMemoryError])
@pytest.mark.parametrize(("tiny", "index"), [*((FIRST, index) for index in range(6)), (KLEIN, 1)], indirect=["tiny"])
def test_after_a_request_that_fails_in_a_block_those_with_other_loras_are_correct(tiny, on_device, loras, error, index):
    each = with_merger(tiny, 6)
    transformer = each.pipeline.transformer
    block = [*transformer.transformer_blocks, *transformer.single_transformer_blocks][index]
    generated(each.pipeline)
    hook = block.register_forward_hook(lambda *_: (_ for _ in ()).throw(error))
    with pytest.raises(error):
        generated(each.pipeline)
    hook.remove()
    for applied in ([AppliedLora("a", loras["a"], 1.0, "a")], []):
        for other in (each, on_device):
            other.merger.apply(applied)
        assert torch.equal(generated(each.pipeline), generated(on_device.pipeline))


def test_wrongly_restored_weights_are_noticed_in_host_memory(tiny, loras):
    each = with_merger(tiny, 6)
    each.merger.apply([AppliedLora("a", loras["a"], 1.0, "a")])
    name = next(iter(each.merger._originals))
    each.merger._originals[name].weight.add_(1)
    each.merger.apply([])
    assert not each.merger.is_intact


@pytest.mark.parametrize("streaming", [6], indirect=True)
def test_go_fast_is_refused_in_one_sentence(streaming):
    fast = Int8Transformer(streaming.pipeline, streaming.merger, log_line=print)
    with pytest.raises(ValueError) as error, fast.enabled():
        pass
    assert_one_sentence(error.value, "go_fast is true", "expected false")


def test_a_pipeline_streams_as_many_blocks_as_its_device_map_says(monkeypatch):
    """The GPU is only a device name here, and nothing is computed."""
    monkeypatch.setattr(loading, "device", lambda: torch.device("cuda"))
    monkeypatch.setattr(loading, "_device_map_for", lambda *_: DeviceMap(("transformer",), 3))
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, *_: module)
    placements = []
    whole = loading.load_transformer

    def load_on_cpu(base, placement):
        placements.append(placement)
        return whole(base, on_cpu(placement))

    monkeypatch.setattr(loading, "load_transformer", load_on_cpu)
    pipeline = load_pipeline(TINY_FLUX)
    assert placements == [WeightPlacement("bf16", False, torch.device("cuda"), 3)]
    layers = [layer for layer in pipeline.transformer.modules() if is_streamed(layer)]
    assert layers
    assert all(stored_weight(layer).numel() for layer in layers)


def on_cpu(placement):
    return WeightPlacement("fp32", placement.modulation_on_host, CPU, placement.streamed_blocks)
