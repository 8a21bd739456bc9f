"""A module can be moved to a device temporarily, and is restored afterwards even if the block raises."""

import contextlib
import copy
import threading

import pytest
import torch

from lora.base.device import on_device
from lora.families.loading import load_encoders, load_pipeline
from lora.flux.prompt import encode_prompt, text_tokens
from tests.tiny import TINY_FLUX, tiny_pipeline

META = torch.device("meta")  # a second device that every machine has, without data in tensors
TEXT = "a red star in a meadow"


@pytest.fixture(scope="module")
def pipeline():
    return tiny_pipeline()


@pytest.fixture
def restored(pipeline):
    """Both text encoders; checks at the end that they have the very tensors that they had."""
    modules = pipeline.text_encoder, pipeline.text_encoder_2
    before = [tensors_of(module) for module in modules]
    values = [copy.deepcopy(module.state_dict()) for module in modules]
    yield modules
    for module, tensors, kept in zip(modules, before, values, strict=True):
        assert tensors_of(module).keys() == tensors.keys()
        assert all(tensor is tensors[name] for name, tensor in tensors_of(module).items())
        assert all(torch.equal(tensor, kept[name]) for name, tensor in module.state_dict().items())


def tensors_of(module):
    return dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))


def devices(module):
    return {tensor.device.type for tensor in tensors_of(module).values()}


def test_a_module_is_moved_and_restored(restored):
    clip, t5 = restored
    with on_device(META, clip, t5):
        assert devices(clip) == devices(t5) == {"meta"}
        assert clip.device == META


def test_a_module_that_is_already_there_stays(restored):
    clip, _ = restored
    weight = clip.get_input_embeddings().weight
    with on_device(clip.device, clip):
        assert clip.get_input_embeddings().weight is weight


def test_shared_tensors_stay_shared(restored):
    _, t5 = restored
    assert t5.shared.weight is t5.encoder.embed_tokens.weight
    with on_device(META, t5):
        assert t5.shared.weight is t5.encoder.embed_tokens.weight


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_module_is_restored_after_an_error(restored, error):
    with contextlib.suppress(error), on_device(META, *restored, in_turn=restored[1].encoder.block):
        raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_block_that_is_interrupted_is_restored(restored, error):
    def interrupt(*_):
        raise error

    _, t5 = restored
    hook = t5.encoder.block[1].layer[0].register_forward_pre_hook(interrupt)
    with pytest.raises(error), on_device(META, t5, in_turn=t5.encoder.block):
        t5(torch.zeros(1, 4, dtype=torch.long, device=META))
    hook.remove()


def test_of_blocks_in_turn_only_the_running_one_is_moved(restored):
    _, t5 = restored
    seen = []
    blocks = list(t5.encoder.block)
    with on_device(META, t5, in_turn=blocks):
        assert devices(t5.encoder.final_layer_norm) == devices(t5.shared) == {"meta"}
        hooks = [
            b.layer[0].register_forward_pre_hook(lambda *_: seen.append([devices(b) for b in blocks])) for b in blocks
        ]
        output = t5(torch.zeros(1, 4, dtype=torch.long, device=META))[0]
    for hook in hooks:
        hook.remove()
    assert output.device == META
    assert len(blocks) > 1
    assert seen == [[{"meta" if other is block else "cpu"} for other in blocks] for block in blocks]


def test_blocks_in_turn_compute_the_same(pipeline):
    """Other tensors on the same device stand in for a GPU."""
    t5, ids = pipeline.text_encoder_2, torch.arange(7)[None]
    with torch.no_grad():
        expected = t5(ids)[0]
        with on_device(torch.device("cpu", 0), t5, in_turn=t5.encoder.block):
            assert torch.equal(t5(ids)[0], expected)
        assert torch.equal(t5(ids)[0], expected)


@pytest.mark.usefixtures("restored")
def test_a_prompt_is_encoded_on_the_device_of_the_transformer(pipeline, monkeypatch):
    expected = encode_prompt(pipeline, TEXT)
    monkeypatch.setattr(pipeline, "transformer", copy.deepcopy(pipeline.transformer).to(META))
    used = []
    hook = pipeline.text_encoder.register_forward_pre_hook(lambda clip, *_: used.append(devices(clip)))
    prompt = encode_prompt(pipeline, TEXT)
    hook.remove()
    assert used == [{"meta"}]
    assert prompt.tokens.device == prompt.pooled.device == META
    assert prompt.tokens.shape == expected.tokens.shape == (text_tokens(pipeline), expected.tokens.shape[1])
    assert prompt.pooled.shape == expected.pooled.shape


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_all_of_flux_is_on_the_cpu_in_fp32():
    pipeline = load_pipeline(TINY_FLUX)
    for component in (pipeline.transformer, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2):
        assert (devices(component), component.dtype) == ({"cpu"}, torch.float32)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_encoders_that_are_moved_to_a_gpu_compute_the_same_as_those_that_stay_there():
    pipeline = load_pipeline(TINY_FLUX)
    expected = encode_prompt(pipeline, TEXT)
    pipeline.text_encoder.to("cpu")
    pipeline.text_encoder_2.to("cpu")
    prompt = encode_prompt(pipeline, TEXT)
    assert torch.equal(prompt.tokens, expected.tokens)
    assert torch.equal(prompt.pooled, expected.pooled)
    assert devices(pipeline.text_encoder) == devices(pipeline.text_encoder_2) == {"cpu"}


def test_no_thread_is_started_while_encoders_are_loaded(monkeypatch):
    """A cancel could kill it while it starts, which happened on a training server."""
    monkeypatch.delenv("HF_DEACTIVATE_ASYNC_LOAD", raising=False)
    started, start = [], threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", lambda thread: (started.append(thread.name), start(thread))[1])
    load_encoders(TINY_FLUX, on=torch.device("cpu"))
    assert started == []
