"""The int8 transformer: nearly the same images, LoRAs at their full strength, and no other effect on the pipeline."""

import math

import pytest
import torch
from torch._dynamo.utils import counters

from lora.engine.int8 import W8A8Linear
from lora.families.registry import family_of_model
from lora.formats.reading import convert_lora
from lora.serving.int8_transformer import Int8Transformer, build_int8_transformer, int8_layers
from lora.serving.lora_merger import AppliedLora, LoraMerger
from tests.random_klein import random_klein_transformer
from tests.tiny import random_lora, tiny_transformer

QKV = ("attn.to_q", "attn.to_k", "attn.to_v")
IN_DOUBLE_BLOCKS = (
    *(*QKV, "attn.to_out.0", "ff.net.0.proj", "ff.net.2"),
    *("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"),
    *("ff_context.net.0.proj", "ff_context.net.2"),
)
IN_DOUBLE_BLOCKS_OF_FLUX2 = (
    *(*QKV, "attn.to_out.0", "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"),
    *("ff.linear_in", "ff.linear_out", "ff_context.linear_in", "ff_context.linear_out"),
)
IN_SINGLE_BLOCKS = (*QKV, "proj_mlp", "proj_out")
INT8_LAYERS = {"FLUX.1": 44, "FLUX.2 [klein]": 32}  # of the embedded bases, with 2 double and 4 single blocks
LEAST_PSNR = {"FLUX.1": 35, "FLUX.2 [klein]": 32}  # dB; klein's guidance of 4 multiplies what rounding has changed
SIZES = [{"width": 64, "height": 64}, {"width": 128, "height": 96}, {"width": 64, "height": 80}]


@pytest.fixture(scope="module")
def loras(tiny, pipeline):
    """LoRAs on every layer, in fp32, so that only the quantization rounds."""
    made = {name: random_lora(pipeline.transformer, rank=4, seed=seed) for seed, name in enumerate("ab")}
    names = tiny.family.layer_names
    return {
        name: convert_lora({key: tensor.float() for key, tensor in lora.items()}, names) for name, lora in made.items()
    }


@pytest.fixture
def merger(pipeline):
    merger = LoraMerger(pipeline)
    yield merger
    merger.apply([])


@pytest.fixture
def apply(merger, loras):
    """Applies some of the LoRAs, such as a=1.0."""
    return lambda **scales: merger.apply(
        [AppliedLora(name, loras[name], scale, name) for name, scale in scales.items()]
    )


@pytest.fixture
def fast(pipeline, merger):
    return Int8Transformer(pipeline, merger, log_line=print)


def codes(pipeline, fast):
    """Return codes and scales of every int8 layer, as a request finds them."""
    with fast.enabled():
        return {
            name: (layer.weight.clone(), layer.scales.clone())
            for name, layer in int8_layers(pipeline.transformer).items()
        }


def same(some, others):
    return all(torch.equal(*pair) for name in some for pair in zip(some[name], others[name], strict=True))


def weights(some):
    return {name: codes.double() * scales[:, None] for name, (codes, scales) in some.items()}


def generated(pipeline, *, width=64, height=64, **options):
    with torch.inference_mode():
        return pipeline(
            prompt="a red star in a meadow",
            max_sequence_length=family_of_model(pipeline).text.length(pipeline),
            width=width,
            height=height,
            num_inference_steps=3,
            generator=torch.Generator().manual_seed(1),
            output_type="pt",
            **options,
        ).images


def generated_fast(pipeline, fast, **size):
    with fast.enabled():
        return generated(pipeline, **size)


def psnr(image, other):
    """Return the PSNR in dB of images in 0..1."""
    return -10 * math.log10((image - other).square().mean())


def fail_at(monkeypatch, owner, name, *, call, error):
    """Let a method raise an error at a given call."""
    whole, calls = getattr(owner, name), []

    def failing(*args, **options):
        calls.append(args)
        if len(calls) == call:
            raise error
        return whole(*args, **options)

    monkeypatch.setattr(owner, name, failing)


@pytest.mark.parametrize(
    ("transformer", "in_double_blocks", "in_single_blocks"),
    [
        (tiny_transformer, IN_DOUBLE_BLOCKS, IN_SINGLE_BLOCKS),
        (random_klein_transformer, IN_DOUBLE_BLOCKS_OF_FLUX2, ("attn.to_qkv_mlp_proj", "attn.to_out")),
    ],
)
def test_exactly_the_layers_that_multiply_every_token_are_int8(transformer, in_double_blocks, in_single_blocks):
    assert set(int8_layers(build_int8_transformer(transformer()))) == {
        *(f"transformer_blocks.{block}.{layer}" for block in range(2) for layer in in_double_blocks),
        *(f"single_transformer_blocks.{block}.{layer}" for block in range(2) for layer in in_single_blocks),
    }


@pytest.mark.parametrize("transformer", [tiny_transformer, random_klein_transformer])
def test_all_other_parameters_are_shared_with_the_plain_model(transformer):
    plain = transformer()
    fast = build_int8_transformer(plain)
    own = dict(plain.named_parameters())
    shared = dict(fast.named_parameters())
    assert own.keys() == shared.keys()
    others = {name for name, parameter in shared.items() if parameter is not own[name]}
    assert others == {f"{name}.weight" for name in int8_layers(fast)}


def test_the_int8_transformer_takes_memory_only_for_codes_and_scales():
    plain = tiny_transformer()
    fast = build_int8_transformer(plain)
    own = {parameter.data_ptr() for parameter in plain.parameters()}
    layers = int8_layers(fast).values()
    tensors = [*fast.parameters(), *fast.buffers(), *(layer.scales for layer in layers)]
    more = sum(each.nbytes for each in tensors if each.data_ptr() not in own)
    quantized = [plain.get_submodule(name) for name in int8_layers(fast)]
    assert more == sum(layer.weight.numel() + 4 * layer.out_features for layer in quantized)


def test_without_go_fast_it_takes_no_memory(monkeypatch, pipeline, merger):
    fail_at(monkeypatch, W8A8Linear, "__init__", call=1, error=AssertionError)
    Int8Transformer(pipeline, merger, log_line=print)
    generated(pipeline)


@pytest.mark.parametrize("size", SIZES)
def test_an_image_of_any_size_is_nearly_the_same(tiny, pipeline, fast, size):
    assert LEAST_PSNR[tiny.family.name] < psnr(generated_fast(pipeline, fast, **size), generated(pipeline, **size)) < 70


def test_an_image_with_a_lora_is_close_to_the_plain_image_with_it_and_not_to_the_one_without(
    tiny, pipeline, fast, apply
):
    without = generated(pipeline)
    apply(a=2.0)
    found, expected = generated_fast(pipeline, fast), generated(pipeline)
    assert psnr(found, expected) > LEAST_PSNR[tiny.family.name] + 1
    assert psnr(found, without) < LEAST_PSNR[tiny.family.name] + 1


@pytest.mark.parametrize("scale", [-1.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("name", ["a", "b"])
def test_each_layer_has_a_lora_at_its_full_strength(tiny, pipeline, fast, apply, loras, name, scale):
    """In peers, go_fast needs 1.5 times the scale. Regresses the change of the quantized weights on scale times B A."""
    base = weights(codes(pipeline, fast))
    apply(**{name: scale})
    strengths = []
    for layer, weight in weights(codes(pipeline, fast)).items():
        factors = loras[name].transformer[layer]
        full = scale * factors.up.double() @ factors.down.double()
        strengths.append(((weight - base[layer]) * full).sum().item() / full.square().sum().item())
    assert len(strengths) == INT8_LAYERS[tiny.family.name]
    assert all(abs(strength - 1) < 0.02 for strength in strengths)
    assert abs(sum(strengths) / len(strengths) - 1) < 0.002


def test_scale_0_gives_the_int8_base_bit_for_bit(pipeline, fast, apply):
    base = codes(pipeline, fast)
    apply(a=1.0)
    assert not same(codes(pipeline, fast), base)
    apply(a=0.0)
    assert same(codes(pipeline, fast), base)


def test_the_same_loras_give_the_same_codes_whatever_was_applied_before(pipeline, fast, apply):
    base = codes(pipeline, fast)
    apply(a=1.0)
    first = codes(pipeline, fast)
    apply(b=1.7)
    assert not same(codes(pipeline, fast), first)
    apply()
    assert same(codes(pipeline, fast), base)
    apply(a=1.0)
    assert same(codes(pipeline, fast), first)


def test_loras_applied_before_the_first_fast_request_are_in_its_codes(pipeline, merger, apply):
    apply(a=1.0)
    early = codes(pipeline, Int8Transformer(pipeline, merger, log_line=print))
    fast = Int8Transformer(pipeline, merger, log_line=print)
    apply(b=1.0)
    codes(pipeline, fast)
    apply(a=1.0)
    assert same(codes(pipeline, fast), early)


def test_loras_that_change_between_two_fast_requests_are_noticed(pipeline, fast, apply):
    apply(a=1.0)
    first = codes(pipeline, fast)
    apply(b=1.0)
    generated(pipeline)
    apply(a=1.0)
    assert same(codes(pipeline, fast), first)


def test_only_layers_that_were_written_are_quantized_again(monkeypatch, tiny, pipeline, fast, merger, loras):
    codes(pipeline, fast)
    layer = "transformer_blocks.0.attn.to_q"
    one = convert_lora(
        {
            f"transformer.{layer}.lora_A.weight": loras["a"].transformer[layer].down,
            f"transformer.{layer}.lora_B.weight": loras["a"].transformer[layer].up,
        },
        tiny.family.layer_names,
    )
    quantized = []
    whole = W8A8Linear.store_weight

    def counting(self, *args, **options):
        quantized.append(self)
        whole(self, *args, **options)

    monkeypatch.setattr(W8A8Linear, "store_weight", counting)
    codes(pipeline, fast)
    assert quantized == []
    merger.apply([AppliedLora("one", one, 1.0, "one")])
    with fast.enabled():
        assert quantized == [pipeline.transformer.get_submodule(layer)]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("owner_and_method", [(torch, "addmm"), (W8A8Linear, "store_weight"), (torch.Tensor, "copy_")])
@pytest.mark.parametrize("before", [{}, {"b": 1.0}])
def test_after_an_interrupted_request_the_next_one_is_correct(
    monkeypatch, pipeline, fast, apply, owner_and_method, before, error
):
    """An error or a cancel comes while LoRAs are merged, while layers are quantized, or while codes are written."""
    apply(a=1.0)
    expected = codes(pipeline, fast)
    apply(**before)
    as_before = codes(pipeline, fast)
    with monkeypatch.context() as patch:
        fail_at(patch, *owner_and_method, call=11, error=error)
        with pytest.raises(error):
            apply(a=1.0)
            codes(pipeline, fast)
    apply(**before)
    assert same(codes(pipeline, fast), as_before)
    apply(a=1.0)
    assert same(codes(pipeline, fast), expected)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_after_an_interrupted_first_fast_request_the_next_one_is_correct(monkeypatch, pipeline, fast, merger, error):
    with monkeypatch.context() as patch:
        fail_at(patch, W8A8Linear, "store_weight", call=11, error=error)
        with pytest.raises(error):
            codes(pipeline, fast)
    assert same(codes(pipeline, fast), codes(pipeline, Int8Transformer(pipeline, merger, log_line=print)))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_after_an_interrupted_fast_request_a_plain_one_is_unchanged_bit_for_bit(pipeline, fast, error):
    plain, before = pipeline.transformer, generated(pipeline)
    with pytest.raises(error), fast.enabled():
        assert pipeline.transformer is not plain
        raise error
    assert pipeline.transformer is plain
    assert torch.equal(generated(pipeline), before)


def test_nothing_is_compiled_on_a_cpu(pipeline, merger):
    lines = []
    counters.clear()
    generated_fast(pipeline, Int8Transformer(pipeline, merger, log_line=lines.append))
    assert lines == []
    assert counters["stats"]["unique_graphs"] == 0
