"""A module that visits a device works there and is at home afterwards as it was, whatever happened on the way."""

import contextlib
import copy
import threading

import pytest
import torch

from lora.flux.loading import load_encoders, load_pipeline, visiting
from lora.flux.prompt import encode_prompt, text_tokens
from tests.tiny import TINY_FLUX, tiny_pipeline

META = torch.device("meta")  # a second device that every machine has, where tensors hold no data
TEXT = "a red star in a meadow"


@pytest.fixture(scope="module")
def pipeline():
    return tiny_pipeline()


@pytest.fixture
def at_home(pipeline):
    """Checks at the end that both encoders are at home, in the very tensors that they had."""
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


def test_who_visits_is_there_and_then_home_again(at_home):
    clip, t5 = at_home
    with visiting(META, clip, t5):
        assert devices(clip) == devices(t5) == {"meta"}
        assert clip.device == META


def test_who_lives_there_stays(at_home):
    clip, _ = at_home
    weight = clip.get_input_embeddings().weight
    with visiting(clip.device, clip):
        assert clip.get_input_embeddings().weight is weight


def test_what_is_shared_at_home_is_shared_on_a_visit(at_home):
    _, t5 = at_home
    assert t5.shared.weight is t5.encoder.embed_tokens.weight
    with visiting(META, t5):
        assert t5.shared.weight is t5.encoder.embed_tokens.weight


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_visit_that_ends_badly_ends_at_home(at_home, error):
    with contextlib.suppress(error), visiting(META, *at_home, in_turn=at_home[1].encoder.block):
        raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_block_that_is_interrupted_in_its_turn_is_home_again(at_home, error):
    def interrupt(*_):
        raise error

    _, t5 = at_home
    hook = t5.encoder.block[1].layer[0].register_forward_pre_hook(interrupt)
    with pytest.raises(error), visiting(META, t5, in_turn=t5.encoder.block):
        t5(torch.zeros(1, 4, dtype=torch.long, device=META))
    hook.remove()


def test_of_blocks_in_turn_only_the_one_at_work_is_there(at_home):
    _, t5 = at_home
    seen = []
    blocks = list(t5.encoder.block)
    with visiting(META, t5, in_turn=blocks):
        assert devices(t5.encoder.final_layer_norm) == devices(t5.shared) == {"meta"}
        hooks = [
            b.layer[0].register_forward_pre_hook(lambda *_: seen.append([devices(b) for b in blocks])) for b in blocks
        ]
        answer = t5(torch.zeros(1, 4, dtype=torch.long, device=META))[0]
    for hook in hooks:
        hook.remove()
    assert answer.device == META
    assert len(blocks) > 1
    assert seen == [[{"meta" if other is block else "cpu"} for other in blocks] for block in blocks]


def test_blocks_that_take_turns_answer_as_ever(pipeline):
    """From home to home in other tensors, as from a host to a GPU."""
    t5, ids = pipeline.text_encoder_2, torch.arange(7)[None]
    with torch.no_grad():
        expected = t5(ids)[0]
        with visiting(torch.device("cpu", 0), t5, in_turn=t5.encoder.block):
            assert torch.equal(t5(ids)[0], expected)
        assert torch.equal(t5(ids)[0], expected)


@pytest.mark.usefixtures("at_home")
def test_a_prompt_is_encoded_where_the_transformer_is(pipeline, monkeypatch):
    expected = encode_prompt(pipeline, TEXT)
    monkeypatch.setattr(pipeline, "transformer", copy.deepcopy(pipeline.transformer).to(META))
    met = []
    hook = pipeline.text_encoder.register_forward_pre_hook(lambda clip, *_: met.append(devices(clip)))
    prompt = encode_prompt(pipeline, TEXT)
    hook.remove()
    assert met == [{"meta"}]
    assert prompt.tokens.device == prompt.pooled.device == META
    assert prompt.tokens.shape == expected.tokens.shape == (text_tokens(pipeline), expected.tokens.shape[1])
    assert prompt.pooled.shape == expected.pooled.shape


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_all_of_flux_is_on_the_cpu_in_fp32():
    pipeline = load_pipeline(TINY_FLUX)
    for part in (pipeline.transformer, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2):
        assert (devices(part), part.dtype) == ({"cpu"}, torch.float32)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_encoders_that_visit_a_gpu_answer_as_those_that_live_there():
    pipeline = load_pipeline(TINY_FLUX)
    expected = encode_prompt(pipeline, TEXT)
    pipeline.text_encoder.to("cpu")
    pipeline.text_encoder_2.to("cpu")
    prompt = encode_prompt(pipeline, TEXT)
    assert torch.equal(prompt.tokens, expected.tokens)
    assert torch.equal(prompt.pooled, expected.pooled)
    assert devices(pipeline.text_encoder) == devices(pipeline.text_encoder_2) == {"cpu"}


def test_no_thread_is_started_while_encoders_are_loaded(monkeypatch):
    """Of which a cancel could kill the start, as a server of trainings has seen."""
    monkeypatch.delenv("HF_DEACTIVATE_ASYNC_LOAD", raising=False)
    started, start = [], threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", lambda thread: (started.append(thread.name), start(thread))[1])
    load_encoders(TINY_FLUX, on=torch.device("cpu"))
    assert started == []
