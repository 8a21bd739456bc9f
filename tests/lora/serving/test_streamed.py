"""A base whose blocks stream draws, wears and takes off the same, bit for bit, as one that is all on the device."""

from types import SimpleNamespace

import pytest
import torch

from lora.engine.streaming import stored_weight, streams
from lora.flux import loading
from lora.flux.frozen_transformer import WeightPlacement, load_transformer
from lora.flux.loading import load_pipeline
from lora.flux.placement import DeviceMap
from lora.formats.reading import convert_lora
from lora.serving.int8_transformer import Int8Transformer
from lora.serving.lora_merger import AppliedLora, LoraMerger
from tests.lora.serving.test_int8_transformer import drawn
from tests.tiny import TINY_FLUX, assert_one_sentence, random_lora, tiny_pipeline

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def loras():
    transformer = tiny_pipeline().transformer
    return {name: convert_lora(random_lora(transformer, seed=seed)) for seed, name in enumerate("ab")}


def dressed(streamed):
    pipeline = tiny_pipeline()
    pipeline.transformer = load_transformer(TINY_FLUX, WeightPlacement("fp32", False, CPU, streamed))
    return SimpleNamespace(pipeline=pipeline, merger=LoraMerger(pipeline))


@pytest.fixture(scope="module", params=[1, 4, 6])
def streaming(request):
    """So many of its six blocks."""
    return dressed(request.param)


@pytest.fixture(scope="module")
def staying():
    return dressed(0)


def test_pictures_are_the_same_whatever_is_worn_and_was_worn_before(streaming, staying, loras):
    """What was on the device, or on its way, as weights were written, is never drawn with."""
    for outfit in ({}, {"a": 1.0}, {"b": -0.5, "a": 2.0}, {"a": 1.0}, {"a": 0.5}, {}):
        for each in (streaming, staying):
            each.merger.wear([AppliedLora(name, loras[name], scale, name) for name, scale in outfit.items()])
        assert torch.equal(drawn(streaming.pipeline), drawn(staying.pipeline))
    assert streaming.merger.is_intact


@pytest.mark.parametrize("error", [KeyboardInterrupt, torch.OutOfMemoryError])
@pytest.mark.parametrize("place", range(6))
def test_a_request_that_ends_in_the_midst_of_a_block_leaves_those_with_other_loras_right(staying, loras, error, place):
    each = dressed(6)
    transformer = each.pipeline.transformer
    block = [*transformer.transformer_blocks, *transformer.single_transformer_blocks][place]
    drawn(each.pipeline)
    hook = block.register_forward_hook(lambda *_: (_ for _ in ()).throw(error))
    with pytest.raises(error):
        drawn(each.pipeline)
    hook.remove()
    for outfit in ([AppliedLora("a", loras["a"], 1.0, "a")], []):
        for other in (each, staying):
            other.merger.wear(outfit)
        assert torch.equal(drawn(each.pipeline), drawn(staying.pipeline))


def test_weights_that_come_back_wrong_are_noticed_where_they_are_kept(loras):
    each = dressed(6)
    each.merger.wear([AppliedLora("a", loras["a"], 1.0, "a")])
    name = next(iter(each.merger._originals))
    each.merger._originals[name].weight.add_(1)
    each.merger.wear([])
    assert not each.merger.is_intact


def test_go_fast_is_refused_in_a_sentence(streaming):
    fast = Int8Transformer(streaming.pipeline, streaming.merger, say=print)
    with pytest.raises(ValueError) as error, fast.enabled():
        pass
    assert_one_sentence(error.value, "go_fast is true", "expected false")


def test_a_pipeline_is_loaded_with_as_many_blocks_streamed_as_its_placement_says(monkeypatch):
    """The GPU is a name here: its tensors hold no data."""
    monkeypatch.setattr(loading, "device", lambda: torch.device("cuda"))
    monkeypatch.setattr(loading, "_device_map_for", lambda *_: DeviceMap(("transformer",), 3))
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, *_: module)
    held = []
    whole = loading.load_transformer
    monkeypatch.setattr(loading, "load_transformer", lambda base, how: (held.append(how), whole(base, on_cpu(how)))[1])
    pipeline = load_pipeline(TINY_FLUX)
    assert held == [WeightPlacement("bf16", False, torch.device("cuda"), 3)]
    layers = [layer for layer in pipeline.transformer.modules() if streams(layer)]
    assert layers
    assert all(stored_weight(layer).numel() for layer in layers)


def on_cpu(held):
    return WeightPlacement("fp32", held.modulation_on_host, CPU, held.streamed_blocks)
