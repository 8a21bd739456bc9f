"""Whatever was applied before, a request finds the base or exactly its own LoRAs; a refused LoRA has no effect."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

from lora.families.registry import family_of_model
from lora.formats.layer_names.flux1 import FLUX1
from lora.formats.reading import convert_lora
from lora.formats.weight_deltas import LowRankFactors
from lora.serving import lora_merger as lora_merger_module
from lora.serving.lora_merger import AppliedLora, LoraMerger, ScaledDelta, ScaledFactors, _write
from tests.families import FIRST
from tests.lora.formats.made import KOHYA, loha, lokr
from tests.tiny import assert_one_sentence, random_lora

with_clip = pytest.mark.parametrize("tiny", [FIRST], indirect=True)  # LoRA files may change it only in FLUX.1
LAYER = "transformer_blocks.0.attn.to_q"
DOWN, UP = f"transformer.{LAYER}.lora_A.weight", f"transformer.{LAYER}.lora_B.weight"
CLIP_LAYER = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module", autouse=True)
def base(pipeline):
    """The latents of the pipeline before any LoRA was applied."""
    return generated(pipeline)


@pytest.fixture(scope="module")
def loras(pipeline):
    """Three LoRAs of two ranks, in fp32, so that nothing is rounded."""
    ranks = {"a": 4, "b": 8, "c": 4}
    made = {name: random_lora(pipeline.transformer, rank=rank, seed=i) for i, (name, rank) in enumerate(ranks.items())}
    return {name: {key: tensor.float() for key, tensor in lora.items()} for name, lora in made.items()}


@pytest.fixture
def merger(pipeline):
    merger = LoraMerger(pipeline)
    yield merger
    merger.apply([])
    assert merger.is_intact


@pytest.fixture
def apply(merger, loras, applied):
    """Applies some of the three LoRAs, such as a=1.0."""
    return lambda **scales: merger.apply([applied(loras[name], name=name, scale=scales[name]) for name in scales])


@pytest.fixture(scope="module")
def applied(tiny):
    """A LoRA of these tensors."""

    def make(tensors, *, name, scale=1.0):
        return AppliedLora(name, convert_lora(tensors, tiny.family.layer_names), scale, f"loras[1] {name!r}")

    return make


def generated(pipeline):
    """Return the latents of a small image, because the VAE could hide a difference."""
    return pipeline(
        prompt="a photo of TOK",
        max_sequence_length=family_of_model(pipeline).text.length(pipeline),
        width=64,
        height=64,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(1),
        output_type="latent",
    ).images


def weights(pipeline):
    return {name: each.detach().clone() for name, each in pipeline.transformer.named_parameters()}


def product_of(lora, layer):
    return lora[f"transformer.{layer}.lora_B.weight"] @ lora[f"transformer.{layer}.lora_A.weight"]


def layers_of(lora):
    return {name.removeprefix("transformer.").split(".lora_")[0] for name in lora}


def without(tensors, *names):
    return {name: tensor for name, tensor in tensors.items() if name not in names}


def every_kind(transformer):
    """A LoRA with a norm, a full difference, a DoRA of rows, one of columns, a GLoRA, and a bias if there is any."""
    generator = torch.Generator().manual_seed(5)

    def randn(*size):
        return 0.1 * torch.randn(*size, generator=generator)

    block, width = "transformer.transformer_blocks.0.attn", transformer.get_submodule(LAYER).in_features
    tensors = {f"{block}.to_q.lora_A.weight": randn(2, width), f"{block}.to_q.lora_B.weight": randn(width, 2)}
    tensors |= {f"{block}.to_q.magnitude": 2 + randn(width)}
    tensors |= {f"{block}.to_q.diff_b": randn(width)} if transformer.get_submodule(LAYER).bias is not None else {}
    tensors |= {f"{block}.norm_q.diff": randn(len(transformer.get_submodule(f"{LAYER[:-4]}norm_q").weight))}
    tensors |= {f"{block}.to_out.0.diff": randn(width, width)}
    qkv = "lora_unet_double_blocks_1_img_attn_qkv"
    tensors |= {f"{qkv}.lora_down.weight": randn(2, width), f"{qkv}.lora_up.weight": randn(3 * width, 2)}
    tensors |= {f"{qkv}.dora_scale": 2 + randn(1, width)}
    glora = "lycoris_transformer_blocks_0_attn_to_k"
    tensors |= {f"{glora}.a1.weight": randn(width, 2), f"{glora}.a2.weight": randn(2, width)}
    return tensors | {f"{glora}.b1.weight": randn(width, 2), f"{glora}.b2.weight": randn(2, width)}


def incompatible(lora):
    """Return LoRAs that are almost compatible, each with what its error has to name."""
    down, up = lora[DOWN], lora[UP]
    other = lora | {DOWN: torch.ones(4, 7)}, lora | {UP: torch.ones(7, 4)}
    bias, norm = f"transformer.{LAYER}.diff_b", "transformer.transformer_blocks.0.attn.norm_q.diff"
    return {
        "a bias of another length": (lora | {bias: torch.ones(7)}, f"7 numbers for transformer.{LAYER}.bias"),
        "a norm too many": (lora | {norm.replace(".0.", ".99."): torch.ones(16)}, "this model has none"),
        "wrong inputs": (other[0], LAYER),
        "wrong outputs": (other[1], LAYER),
        "a block too many": (lora | {DOWN.replace(".0.", ".99."): down, UP.replace(".0.", ".99."): up}, ".99."),
    }


def test_a_lora_changes_the_image(pipeline, apply, base):
    """Trap 29."""
    apply(a=1.0)
    assert (generated(pipeline) - base).abs().max() > 1e-3


@pytest.mark.parametrize("scale", [-1.0, 0.5, 1.0, 2.0])
def test_each_weight_changes_by_the_scale_times_b_times_a(pipeline, apply, loras, scale):
    """Trap 24: the scale is applied once, not squared; -1 subtracts."""
    before = weights(pipeline)
    apply(a=scale)
    after = weights(pipeline)
    changed = {name.removesuffix(".weight") for name in before if not torch.equal(before[name], after[name])}
    assert changed == layers_of(loras["a"])
    for layer in changed:
        expected = scale * product_of(loras["a"], layer)
        found = after[f"{layer}.weight"] - before[f"{layer}.weight"]
        assert (found - expected).norm() < 1e-5 * expected.norm() + 1e-6, layer


def test_several_loras_add_up(pipeline, apply, loras):
    before = weights(pipeline)
    apply(a=1.0, b=-0.5, c=2.0)
    expected = sum(scale * product_of(loras[name], LAYER) for name, scale in (("a", 1.0), ("b", -0.5), ("c", 2.0)))
    found = weights(pipeline)[f"{LAYER}.weight"] - before[f"{LAYER}.weight"]
    assert torch.allclose(found, expected, atol=1e-6)


def test_the_same_lora_twice_is_applied_twice(pipeline, merger, loras, applied):
    """C100."""
    merger.apply([applied(loras["a"], name="a"), applied(loras["a"], name="a")])
    twice = generated(pipeline)
    merger.apply([applied(loras["a"], name="a", scale=2.0)])
    assert torch.allclose(generated(pipeline), twice, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loras_of_all_decompositions_together_are_rounded_once(dtype):
    """Two plain LoRAs, a LoKr and a LoHa on one layer, in any order."""
    generator = torch.Generator().manual_seed(0)
    original = torch.randn(24, 16, generator=generator).to(dtype)
    decompositions = [(KOHYA, 1.0), (lokr, -0.5), (loha, 2.0), (KOHYA, 0.5)]
    deltas, exact = [], original.double()
    for decomposition, scale in decompositions:
        tensors, delta = decomposition("lora_unet_double_blocks_0_img_mlp_0", 24, 16, generator)
        deltas.append((next(iter(convert_lora(tensors, FLUX1).transformer.values())), scale))
        exact = exact + scale * delta()
    weight = torch.empty_like(original)
    low_rank = [ScaledFactors(delta, scale) for delta, scale in deltas if isinstance(delta, LowRankFactors)]
    others = [ScaledDelta("digest", delta, scale) for delta, scale in deltas if not isinstance(delta, LowRankFactors)]
    assert (len(low_rank), len(others)) == (2, 2)
    _write(weight, original, low_rank, others)
    eps = torch.finfo(dtype).eps
    assert ((weight.double() - exact).abs() <= eps / 2 * exact.abs() + 1e-5).all()
    assert not torch.equal(weight, original)


def test_every_kind_of_change_is_linear_in_the_scale_and_restored_bit_for_bit(pipeline, merger, apply, base, applied):
    """Also those that depend on the base: their deltas are computed from the original weights."""
    before, kinds = weights(pipeline), every_kind(pipeline.transformer)
    changes = {}
    for scale in (1.0, -1.0, 0.5):
        apply(b=1.0)
        merger.apply([applied(kinds, name="kinds", scale=scale)])
        after = weights(pipeline)
        changes[scale] = {name: after[name] - before[name] for name in before if not after[name].equal(before[name])}
    block = "transformer_blocks.0.attn"
    parts = {f"{block}.to_q.weight", f"{block}.norm_q.weight", f"{block}.to_out.0.weight"}
    parts |= {f"{block}.to_q.bias"} & before.keys()
    parts |= {f"{block}.to_k.weight", *(f"transformer_blocks.1.attn.to_{part}.weight" for part in "qkv")}
    assert changes[1.0].keys() == parts
    for scale, changed in changes.items():
        for name, whole in changes[1.0].items():
            assert torch.allclose(changed[name], scale * whole, atol=1e-6), name
    assert not torch.equal(generated(pipeline), base)
    merger.apply([])
    assert all(torch.equal(before[name], after) for name, after in weights(pipeline).items())
    assert torch.equal(generated(pipeline), base)


def test_a_change_that_depends_on_the_base_is_added_to_other_loras_in_any_order(pipeline, merger, loras, applied):
    before, kinds = weights(pipeline), applied(every_kind(pipeline.transformer), name="kinds")
    changes = []
    for stack in ([kinds], [applied(loras["a"], name="a")], [kinds, applied(loras["a"], name="a")]):
        merger.apply(stack)
        changes.append({name: after - before[name] for name, after in weights(pipeline).items()})
    merger.apply([applied(loras["a"], name="a"), kinds])
    changes.append({name: after - before[name] for name, after in weights(pipeline).items()})
    for name in before:
        assert torch.allclose(changes[0][name] + changes[1][name], changes[2][name], atol=1e-5), name
        assert torch.allclose(changes[2][name], changes[3][name], atol=1e-6), name


def test_a_dora_has_the_weights_that_peft_merges(pipeline, merger, applied):
    config = LoraConfig(r=2, lora_alpha=6, use_dora=True, target_modules=["transformer_blocks.0.attn.to_q"])
    peft = get_peft_model(copy.deepcopy(pipeline.transformer), config)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in peft.named_parameters():
        if "lora_" in name:
            parameter.data.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    tensors = get_peft_model_state_dict(peft)
    up = next(name for name in tensors if name.endswith("lora_B.weight"))
    merger.apply([applied(tensors | {up: 3 * tensors[up]}, name="peft")])  # alpha / r, from adapter_config.json
    expected = peft.merge_and_unload().state_dict()
    found = pipeline.transformer.state_dict()
    assert all(torch.allclose(found[name], expected[name], atol=1e-5) for name in expected)
    assert torch.dist(expected[f"{LAYER}.weight"], merger._originals[f"transformer.{LAYER}"].weight) > 0.1


@with_clip
@pytest.mark.parametrize("key", ["diff_b", "diff"])
def test_prompts_are_encoded_anew_for_a_vector_of_a_text_encoder(merger, pipeline, key, applied):
    layer = "self_attn.q_proj" if key == "diff_b" else "layer_norm1"
    tensors = {
        f"text_encoder.text_model.encoder.layers.0.{layer}.{key}": torch.ones(pipeline.text_encoder.config.hidden_size)
    }
    merger.apply([applied(tensors, name="clip", scale=0.5)])
    assert merger.on_text_encoders == (("clip", 0.5),)
    merger.apply([])
    assert merger.on_text_encoders == ()


def test_factors_stay_on_the_device_while_their_lora_is_applied_at_any_scale(merger, loras, applied):
    merger.apply([applied(loras["a"], name="a"), applied(loras["b"], name="b")])
    before = dict(merger._device_factors)
    merger.apply([applied(loras["a"], name="a", scale=0.5)])
    assert merger._device_factors.keys() == {key for key in before if key[0] == "a"}
    assert all(factors is before[key] for key, factors in merger._device_factors.items())
    merger.apply([])
    assert merger._device_factors == {}


@pytest.mark.parametrize("before", [{}, {"b": 1.0}])
def test_a_lora_that_makes_weights_infinite_is_refused_and_the_base_is_restored(
    pipeline, merger, apply, loras, base, before, applied
):
    apply(**before)
    huge = {name: torch.full_like(tensor, 1e30) for name, tensor in loras["a"].items()}
    with pytest.raises(ValueError) as error:
        merger.apply([applied(loras["c"], name="c"), applied(huge, name="huge")])
    assert_one_sentence(
        error.value, "loras[1] 'c' with loras[1] 'huge' makes weights of the model infinite", "expected"
    )
    assert torch.equal(generated(pipeline), base)


def test_without_loras_the_base_is_restored_bit_for_bit(pipeline, merger, apply, base):
    apply(a=1.0, b=0.5)
    merger.apply([])
    assert torch.equal(generated(pipeline), base)
    merger.apply([])
    assert torch.equal(generated(pipeline), base)


@pytest.mark.parametrize("before", [None, "b"])
def test_scale_0_equals_no_lora_bit_for_bit(pipeline, apply, base, before):
    """C97."""
    if before:
        apply(**{before: 1.0})
    apply(a=0.0)
    assert torch.equal(generated(pipeline), base)


def test_the_same_loras_give_the_same_image_whatever_was_applied_before(pipeline, merger, apply, base):
    """C95: A, B, none and A again, bit for bit."""
    apply(a=1.0)
    fresh = generated(pipeline)
    apply(b=1.7, c=1.0)
    assert not torch.equal(generated(pipeline), fresh)
    merger.apply([])
    assert torch.equal(generated(pipeline), base)
    apply(a=0.5)
    apply(a=1.0)
    assert torch.equal(generated(pipeline), fresh)


def test_loras_of_equal_rank_are_distinguished(pipeline, apply):
    results = []
    for name in ("a", "c", "a", "c"):
        apply(**{name: 1.0})
        results.append(generated(pipeline))
    assert torch.equal(results[0], results[2])
    assert torch.equal(results[1], results[3])
    assert not torch.equal(results[0], results[1])


@with_clip
def test_a_lora_on_a_text_encoder_is_applied_and_removed(pipeline, merger, base, applied):
    """C77."""
    width = pipeline.text_encoder.config.hidden_size
    tensors = {f"{CLIP_LAYER}.lora_A.weight": torch.ones(2, width), f"{CLIP_LAYER}.lora_B.weight": torch.ones(width, 2)}
    merger.apply([applied(tensors, name="clip")])
    assert not torch.equal(generated(pipeline), base)
    merger.apply([])
    assert torch.equal(generated(pipeline), base)


@pytest.mark.parametrize("scale", [0.0, 1.0])
@pytest.mark.parametrize(
    "kind", ["wrong inputs", "wrong outputs", "a block too many", "a bias of another length", "a norm too many"]
)
def test_an_incompatible_lora_is_refused_and_the_applied_loras_stay(
    pipeline, merger, apply, loras, kind, scale, applied
):
    """C68, C73."""
    apply(b=1.0)
    before = generated(pipeline)
    tensors, found = incompatible(loras["a"])[kind]
    with pytest.raises(ValueError) as error:
        merger.apply([applied(loras["c"], name="c"), applied(tensors, name="incompatible", scale=scale)])
    assert_one_sentence(error.value, "loras[1] 'incompatible' is incompatible with this model", found)
    assert torch.equal(generated(pipeline), before)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("before", [{}, {"b": 1.0}])
def test_after_an_interrupted_call_the_base_is_restored(monkeypatch, pipeline, apply, base, before, error):
    """C103, C104: an error or a cancel comes at the tenth layer."""
    layers = 0

    def fail_at_the_tenth(*args, **options):
        nonlocal layers
        layers += 1
        if layers == 10:
            raise error
        return whole(*args, **options)

    apply(**before)
    whole = torch.addmm
    with monkeypatch.context() as patch:
        patch.setattr(lora_merger_module.torch, "addmm", fail_at_the_tenth)
        with pytest.raises(error):
            apply(a=1.0)
    assert torch.equal(generated(pipeline), base)
    apply(a=1.0)
    assert not torch.equal(generated(pipeline), base)


def test_a_base_that_is_not_restored_is_noticed(pipeline, loras, applied):
    merger = LoraMerger(pipeline)
    before = weights(pipeline)[f"{LAYER}.weight"]
    merger.apply([applied(loras["a"], name="a")])
    merger._originals[f"transformer.{LAYER}"].weight[0, 0] += 1
    merger.apply([])
    assert not merger.is_intact
    pipeline.transformer.get_submodule(LAYER).weight.data.copy_(before)


def test_removed_loras_leave_no_modules_behind(pipeline, apply):
    """C106."""
    modules = sum(1 for _ in pipeline.transformer.modules())
    for scale in (0.5, 1.0, 0.0):
        apply(a=scale)
        apply(b=scale)
    assert sum(1 for _ in pipeline.transformer.modules()) == modules
