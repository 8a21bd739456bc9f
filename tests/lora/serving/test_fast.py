"""In 8 bits, a pipeline draws nearly the same, wears LoRAs at their full strength, and is otherwise left as it was."""

import math

import pytest
import torch
from torch._dynamo.utils import counters

from lora.flux.eight_bit import W8A8Linear
from lora.flux.layouts.canonical import canonical
from lora.serving.fast import FastTransformer, eight_bit, eight_bit_layers
from lora.serving.wardrobe import Wardrobe, Worn
from tests.tiny import TINY_TEXT_TOKENS, random_lora, tiny_pipeline, tiny_transformer

QKV = ("attn.to_q", "attn.to_k", "attn.to_v")
IN_DOUBLE_BLOCKS = (
    *(*QKV, "attn.to_out.0", "ff.net.0.proj", "ff.net.2"),
    *("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"),
    *("ff_context.net.0.proj", "ff_context.net.2"),
)
IN_SINGLE_BLOCKS = (*QKV, "proj_mlp", "proj_out")
SIZES = [{"width": 64, "height": 64}, {"width": 128, "height": 96}, {"width": 64, "height": 80}]


@pytest.fixture(scope="module")
def pipeline():
    return tiny_pipeline()


@pytest.fixture(scope="module")
def loras(pipeline):
    """LoRAs on every layer, in fp32 so that only codes are rounded."""
    made = {name: random_lora(pipeline.transformer, rank=4, seed=seed) for seed, name in enumerate("ab")}
    return {name: canonical({key: part.float() for key, part in lora.items()}) for name, lora in made.items()}


@pytest.fixture
def wardrobe(pipeline):
    wardrobe = Wardrobe(pipeline)
    yield wardrobe
    wardrobe.wear([])


@pytest.fixture
def wear(wardrobe, loras):
    """Wear some of them, such as a=1.0."""
    return lambda **scales: wardrobe.wear([Worn(name, loras[name], scale, name) for name, scale in scales.items()])


@pytest.fixture
def fast(pipeline, wardrobe):
    return FastTransformer(pipeline, wardrobe, say=print)


def codes(pipeline, fast):
    """Of every 8-bit layer, as a request finds them."""
    with fast.driving():
        return {
            name: (layer.weight.clone(), layer.scales.clone())
            for name, layer in eight_bit_layers(pipeline.transformer).items()
        }


def same(some, others):
    return all(torch.equal(*pair) for name in some for pair in zip(some[name], others[name], strict=True))


def weights(some):
    return {name: codes.double() * scales[:, None] for name, (codes, scales) in some.items()}


def drawn(pipeline, *, width=64, height=64):
    with torch.inference_mode():
        return pipeline(
            prompt="a red star in a meadow",
            max_sequence_length=TINY_TEXT_TOKENS,
            width=width,
            height=height,
            num_inference_steps=3,
            generator=torch.Generator().manual_seed(1),
            output_type="pt",
        ).images


def drawn_fast(pipeline, fast, **size):
    with fast.driving():
        return drawn(pipeline, **size)


def psnr(image, other):
    """In dB, of images in 0..1."""
    return -10 * math.log10((image - other).square().mean())


def fail_at(monkeypatch, owner, name, *, call, error):
    """Let a method fail at its so-many-th call."""
    whole, calls = getattr(owner, name), []

    def failing(*args, **options):
        calls.append(args)
        if len(calls) == call:
            raise error
        return whole(*args, **options)

    monkeypatch.setattr(owner, name, failing)


def test_what_multiplies_every_token_is_in_8_bits_and_nothing_else_is():
    assert set(eight_bit_layers(eight_bit(tiny_transformer()))) == {
        *(f"transformer_blocks.{block}.{layer}" for block in range(2) for layer in IN_DOUBLE_BLOCKS),
        *(f"single_transformer_blocks.{block}.{layer}" for block in range(2) for layer in IN_SINGLE_BLOCKS),
    }


def test_all_other_parameters_are_those_of_the_plain_model_themselves():
    plain = tiny_transformer()
    fast = eight_bit(plain)
    own = dict(plain.named_parameters())
    shared = dict(fast.named_parameters())
    assert own.keys() == shared.keys()
    others = {name for name, parameter in shared.items() if parameter is not own[name]}
    assert others == {f"{name}.weight" for name in eight_bit_layers(fast)}


def test_it_takes_no_memory_but_for_codes_and_their_scales():
    plain = tiny_transformer()
    fast = eight_bit(plain)
    own = {parameter.data_ptr() for parameter in plain.parameters()}
    layers = eight_bit_layers(fast).values()
    held = [*fast.parameters(), *fast.buffers(), *(layer.scales for layer in layers)]
    more = sum(each.nbytes for each in held if each.data_ptr() not in own)
    rounded = [plain.get_submodule(name) for name in eight_bit_layers(fast)]
    assert more == sum(layer.weight.numel() + 4 * layer.out_features for layer in rounded)


def test_who_never_goes_fast_spends_no_memory_on_it(monkeypatch, pipeline, wardrobe):
    fail_at(monkeypatch, W8A8Linear, "__init__", call=1, error=AssertionError)
    FastTransformer(pipeline, wardrobe, say=print)
    drawn(pipeline)


@pytest.mark.parametrize("size", SIZES)
def test_an_image_of_any_size_is_nearly_the_same(pipeline, fast, size):
    assert 35 < psnr(drawn_fast(pipeline, fast, **size), drawn(pipeline, **size)) < 70


def test_an_image_with_a_lora_is_nearer_to_the_plain_one_with_it_than_to_one_without(pipeline, fast, wear):
    without = drawn(pipeline)
    wear(a=2.0)
    found, expected = drawn_fast(pipeline, fast), drawn(pipeline)
    assert psnr(found, expected) > 36
    assert psnr(found, without) < 36


@pytest.mark.parametrize("scale", [-1.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("name", ["a", "b"])
def test_each_layer_wears_a_lora_at_its_full_strength(pipeline, fast, wear, loras, name, scale):
    """Peers' go_fast needs 1.5 times the scale. What is regressed is the change of the codes upon scale times B A."""
    base = weights(codes(pipeline, fast))
    wear(**{name: scale})
    strengths = []
    for layer, weight in weights(codes(pipeline, fast)).items():
        pair = loras[name].transformer[layer]
        full = scale * pair.up.double() @ pair.down.double()
        strengths.append(((weight - base[layer]) * full).sum().item() / full.square().sum().item())
    assert len(strengths) == 44
    assert all(abs(strength - 1) < 0.02 for strength in strengths)
    assert abs(sum(strengths) / len(strengths) - 1) < 0.002


def test_scale_0_is_the_8_bit_base_bit_for_bit(pipeline, fast, wear):
    base = codes(pipeline, fast)
    wear(a=1.0)
    assert not same(codes(pipeline, fast), base)
    wear(a=0.0)
    assert same(codes(pipeline, fast), base)


def test_the_same_outfit_is_the_same_codes_whatever_was_worn_before(pipeline, fast, wear):
    base = codes(pipeline, fast)
    wear(a=1.0)
    first = codes(pipeline, fast)
    wear(b=1.7)
    assert not same(codes(pipeline, fast), first)
    wear()
    assert same(codes(pipeline, fast), base)
    wear(a=1.0)
    assert same(codes(pipeline, fast), first)


def test_what_was_worn_before_the_first_fast_request_is_in_its_codes(pipeline, wardrobe, wear):
    wear(a=1.0)
    early = codes(pipeline, FastTransformer(pipeline, wardrobe, say=print))
    fast = FastTransformer(pipeline, wardrobe, say=print)
    wear(b=1.0)
    codes(pipeline, fast)
    wear(a=1.0)
    assert same(codes(pipeline, fast), early)


def test_outfits_of_plain_requests_in_between_are_not_missed(pipeline, fast, wear):
    wear(a=1.0)
    first = codes(pipeline, fast)
    wear(b=1.0)
    drawn(pipeline)
    wear(a=1.0)
    assert same(codes(pipeline, fast), first)


def test_only_layers_that_were_written_are_rounded_again(monkeypatch, pipeline, fast, wardrobe, loras):
    codes(pipeline, fast)
    layer = "transformer_blocks.0.attn.to_q"
    one = canonical(
        {
            f"transformer.{layer}.lora_A.weight": loras["a"].transformer[layer].down,
            f"transformer.{layer}.lora_B.weight": loras["a"].transformer[layer].up,
        }
    )
    rounded = []
    whole = W8A8Linear.hold
    monkeypatch.setattr(W8A8Linear, "hold", lambda self, *args, **on: (rounded.append(self), whole(self, *args, **on)))
    codes(pipeline, fast)
    assert rounded == []
    wardrobe.wear([Worn("one", one, 1.0, "one")])
    with fast.driving():
        assert rounded == [pipeline.transformer.get_submodule(layer)]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("owner_and_method", [(torch, "addmm"), (W8A8Linear, "hold"), (torch.Tensor, "copy_")])
@pytest.mark.parametrize("before", [{}, {"b": 1.0}])
def test_what_ends_half_way_leaves_the_next_request_right(
    monkeypatch, pipeline, fast, wear, owner_and_method, before, error
):
    """In the midst of wearing, of rounding, or of writing codes: an error as well as a cancel."""
    wear(a=1.0)
    expected = codes(pipeline, fast)
    wear(**before)
    as_before = codes(pipeline, fast)
    with monkeypatch.context() as patch:
        fail_at(patch, *owner_and_method, call=11, error=error)
        with pytest.raises(error):
            wear(a=1.0)
            codes(pipeline, fast)
    wear(**before)
    assert same(codes(pipeline, fast), as_before)
    wear(a=1.0)
    assert same(codes(pipeline, fast), expected)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_the_first_fast_request_may_end_half_way(monkeypatch, pipeline, fast, wardrobe, error):
    with monkeypatch.context() as patch:
        fail_at(patch, W8A8Linear, "hold", call=11, error=error)
        with pytest.raises(error):
            codes(pipeline, fast)
    assert same(codes(pipeline, fast), codes(pipeline, FastTransformer(pipeline, wardrobe, say=print)))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_whatever_ends_a_fast_request_the_next_is_plain_bit_for_bit(pipeline, fast, error):
    plain, before = pipeline.transformer, drawn(pipeline)
    with pytest.raises(error), fast.driving():
        assert pipeline.transformer is not plain
        raise error
    assert pipeline.transformer is plain
    assert torch.equal(drawn(pipeline), before)


def test_nothing_is_compiled_on_a_cpu(pipeline, wardrobe):
    said = []
    counters.clear()
    drawn_fast(pipeline, FastTransformer(pipeline, wardrobe, say=said.append))
    assert said == []
    assert counters["stats"]["unique_graphs"] == 0
