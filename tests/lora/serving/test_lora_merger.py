"""Whatever was worn before, a request finds the base or exactly its own LoRAs; a misfit leaves no trace."""

import pytest
import torch

from lora.formats.reading import convert_lora
from lora.formats.weight_deltas import Pair
from lora.serving import merger as wardrobe_module
from lora.serving.lora_merger import AppliedLora, LoraMerger, ScaledDelta, ScaledFactors, _write
from tests.lora.formats.made import KOHYA, loha, lokr
from tests.tiny import TINY_TEXT_TOKENS, assert_one_sentence, random_lora, tiny_pipeline

LAYER = "transformer_blocks.0.attn.to_q"
DOWN, UP = f"transformer.{LAYER}.lora_A.weight", f"transformer.{LAYER}.lora_B.weight"
CLIP_LAYER = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def pipeline():
    return tiny_pipeline()


@pytest.fixture(scope="module", autouse=True)
def base(pipeline):
    """What the pipeline draws when it wears nothing and never has."""
    return drawn(pipeline)


@pytest.fixture(scope="module")
def loras(pipeline):
    """Three LoRAs of two ranks, in fp32 so that nothing is rounded."""
    ranks = {"a": 4, "b": 8, "c": 4}
    made = {name: random_lora(pipeline.transformer, rank=rank, seed=i) for i, (name, rank) in enumerate(ranks.items())}
    return {name: {key: tensor.float() for key, tensor in lora.items()} for name, lora in made.items()}


@pytest.fixture
def merger(pipeline):
    merger = LoraMerger(pipeline)
    yield merger
    merger.wear([])
    assert merger.is_intact


@pytest.fixture
def wear(merger, loras):
    """Wear some of the three, such as a=1.0."""
    return lambda **scales: merger.wear([worn(loras[name], name=name, scale=scales[name]) for name in scales])


def worn(tensors, *, name, scale=1.0):
    return AppliedLora(name, convert_lora(tensors), scale, f"loras[1] {name!r}")


def drawn(pipeline):
    """Latents of a small image, before a VAE could hide a difference."""
    return pipeline(
        prompt="a photo of TOK",
        max_sequence_length=TINY_TEXT_TOKENS,
        width=64,
        height=64,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(1),
        output_type="latent",
    ).images


def weights(pipeline):
    return {name: each.detach().clone() for name, each in pipeline.transformer.named_parameters()}


def weight_delta_of(lora, layer):
    return lora[f"transformer.{layer}.lora_B.weight"] @ lora[f"transformer.{layer}.lora_A.weight"]


def layers_of(lora):
    return {name.removeprefix("transformer.").split(".lora_")[0] for name in lora}


def without(tensors, *names):
    return {name: tensor for name, tensor in tensors.items() if name not in names}


def misfits(lora):
    """LoRAs that look right from afar, and what must be said of them."""
    down, up = lora[DOWN], lora[UP]
    other = lora | {DOWN: torch.ones(4, 7)}, lora | {UP: torch.ones(7, 4)}
    return {
        "wrong inputs": (other[0], LAYER),
        "wrong outputs": (other[1], LAYER),
        "a block too many": (lora | {DOWN.replace(".0.", ".99."): down, UP.replace(".0.", ".99."): up}, ".99."),
    }


def test_a_lora_changes_what_is_drawn(pipeline, wear, base):
    """Trap 29."""
    wear(a=1.0)
    assert (drawn(pipeline) - base).abs().max() > 1e-3


@pytest.mark.parametrize("scale", [-1.0, 0.5, 1.0, 2.0])
def test_each_weight_changes_by_the_scale_times_b_times_a(pipeline, wear, loras, scale):
    """Trap 24: once, and not by its square; -1 subtracts."""
    before = weights(pipeline)
    wear(a=scale)
    after = weights(pipeline)
    changed = {name.removesuffix(".weight") for name in before if not torch.equal(before[name], after[name])}
    assert changed == layers_of(loras["a"])
    for layer in changed:
        expected = scale * weight_delta_of(loras["a"], layer)
        found = after[f"{layer}.weight"] - before[f"{layer}.weight"]
        assert (found - expected).norm() < 1e-5 * expected.norm() + 1e-6, layer


def test_several_loras_add_up(pipeline, wear, loras):
    before = weights(pipeline)
    wear(a=1.0, b=-0.5, c=2.0)
    expected = sum(scale * weight_delta_of(loras[name], LAYER) for name, scale in (("a", 1.0), ("b", -0.5), ("c", 2.0)))
    found = weights(pipeline)[f"{LAYER}.weight"] - before[f"{LAYER}.weight"]
    assert torch.allclose(found, expected, atol=1e-6)


def test_the_same_lora_twice_is_worn_twice(pipeline, merger, loras):
    """C100."""
    merger.wear([worn(loras["a"], name="a"), worn(loras["a"], name="a")])
    twice = drawn(pipeline)
    merger.wear([worn(loras["a"], name="a", scale=2.0)])
    assert torch.allclose(drawn(pipeline), twice, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loras_of_all_forms_together_are_rounded_once(dtype):
    """Two plain ones, a LoKr and a LoHa on one layer, in any order."""
    generator = torch.Generator().manual_seed(0)
    original = torch.randn(24, 16, generator=generator).to(dtype)
    forms = [(KOHYA, 1.0), (lokr, -0.5), (loha, 2.0), (KOHYA, 0.5)]
    changes, exact = [], original.double()
    for form, scale in forms:
        tensors, change = form("lora_unet_double_blocks_0_img_mlp_0", 24, 16, generator)
        changes.append((next(iter(convert_lora(tensors).transformer.values())), scale))
        exact = exact + scale * change()
    weight = torch.empty_like(original)
    pairs = [ScaledFactors(change, scale) for change, scale in changes if isinstance(change, Pair)]
    others = [ScaledDelta("digest", change, scale) for change, scale in changes if not isinstance(change, Pair)]
    assert (len(pairs), len(others)) == (2, 2)
    _write(weight, original, pairs, others)
    eps = torch.finfo(dtype).eps
    assert ((weight.double() - exact).abs() <= eps / 2 * exact.abs() + 1e-5).all()
    assert not torch.equal(weight, original)


def test_another_scale_brings_no_lora_to_the_device_again_and_what_is_not_worn_is_not_kept_there(merger, loras):
    merger.wear([worn(loras["a"], name="a"), worn(loras["b"], name="b")])
    there = dict(merger._placed)
    merger.wear([worn(loras["a"], name="a", scale=0.5)])
    assert merger._placed.keys() == {key for key in there if key[0] == "a"}
    assert all(pair is there[key] for key, pair in merger._placed.items())
    merger.wear([])
    assert merger._placed == {}


@pytest.mark.parametrize("before", [{}, {"b": 1.0}])
def test_a_lora_that_makes_weights_infinite_is_refused_and_the_base_is_back(
    pipeline, merger, wear, loras, base, before
):
    wear(**before)
    huge = {name: torch.full_like(tensor, 1e30) for name, tensor in loras["a"].items()}
    with pytest.raises(ValueError) as error:
        merger.wear([worn(loras["c"], name="c"), worn(huge, name="huge")])
    assert_one_sentence(
        error.value, "loras[1] 'c' with loras[1] 'huge' makes weights of the model infinite", "expected"
    )
    assert torch.equal(drawn(pipeline), base)


def test_wearing_nothing_is_the_base_bit_for_bit(pipeline, merger, wear, base):
    wear(a=1.0, b=0.5)
    merger.wear([])
    assert torch.equal(drawn(pipeline), base)
    merger.wear([])
    assert torch.equal(drawn(pipeline), base)


@pytest.mark.parametrize("before", [None, "b"])
def test_scale_0_is_no_lora_bit_for_bit(pipeline, wear, base, before):
    """C97."""
    if before:
        wear(**{before: 1.0})
    wear(a=0.0)
    assert torch.equal(drawn(pipeline), base)


def test_the_same_outfit_draws_the_same_whatever_was_worn_before(pipeline, merger, wear, base):
    """C95: A, B, none, A, bit for bit."""
    wear(a=1.0)
    fresh = drawn(pipeline)
    wear(b=1.7, c=1.0)
    assert not torch.equal(drawn(pipeline), fresh)
    merger.wear([])
    assert torch.equal(drawn(pipeline), base)
    wear(a=0.5)
    wear(a=1.0)
    assert torch.equal(drawn(pipeline), fresh)


def test_loras_of_equal_rank_are_told_apart(pipeline, wear):
    answers = []
    for name in ("a", "c", "a", "c"):
        wear(**{name: 1.0})
        answers.append(drawn(pipeline))
    assert torch.equal(answers[0], answers[2])
    assert torch.equal(answers[1], answers[3])
    assert not torch.equal(answers[0], answers[1])


def test_a_lora_on_a_text_encoder_is_worn_there_and_taken_off(pipeline, merger, base):
    """C77."""
    width = pipeline.text_encoder.config.hidden_size
    halves = {f"{CLIP_LAYER}.lora_A.weight": torch.ones(2, width), f"{CLIP_LAYER}.lora_B.weight": torch.ones(width, 2)}
    merger.wear([worn(halves, name="clip")])
    assert not torch.equal(drawn(pipeline), base)
    merger.wear([])
    assert torch.equal(drawn(pipeline), base)


@pytest.mark.parametrize("scale", [0.0, 1.0])
@pytest.mark.parametrize("kind", ["wrong inputs", "wrong outputs", "a block too many"])
def test_a_misfit_is_refused_and_leaves_on_what_was_worn(pipeline, merger, wear, loras, kind, scale):
    """C68, C73."""
    wear(b=1.0)
    before = drawn(pipeline)
    tensors, found = misfits(loras["a"])[kind]
    with pytest.raises(ValueError) as error:
        merger.wear([worn(loras["c"], name="c"), worn(tensors, name="misfit", scale=scale)])
    assert_one_sentence(error.value, "loras[1] 'misfit' was made for another model", found)
    assert torch.equal(drawn(pipeline), before)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("before", [{}, {"b": 1.0}])
def test_what_ends_half_way_leaves_the_base(monkeypatch, pipeline, wear, base, before, error):
    """C103, C104: an error as well as a cancel, at the tenth layer."""
    layers = 0

    def fail_at_the_tenth(*args, **options):
        nonlocal layers
        layers += 1
        if layers == 10:
            raise error
        return whole(*args, **options)

    wear(**before)
    whole = torch.addmm
    with monkeypatch.context() as patch:
        patch.setattr(wardrobe_module.torch, "addmm", fail_at_the_tenth)
        with pytest.raises(error):
            wear(a=1.0)
    assert torch.equal(drawn(pipeline), base)
    wear(a=1.0)
    assert not torch.equal(drawn(pipeline), base)


def test_a_base_that_does_not_come_back_is_noticed(pipeline, loras):
    merger = LoraMerger(pipeline)
    before = weights(pipeline)[f"{LAYER}.weight"]
    merger.wear([worn(loras["a"], name="a")])
    merger._originals[f"transformer.{LAYER}"].weight[0, 0] += 1
    merger.wear([])
    assert not merger.is_intact
    pipeline.transformer.get_submodule(LAYER).weight.data.copy_(before)


def test_what_was_loaded_while_nothing_is_worn_holds_no_memory_of_it(pipeline, wear):
    """C106."""
    modules = sum(1 for _ in pipeline.transformer.modules())
    for scale in (0.5, 1.0, 0.0):
        wear(a=scale)
        wear(b=scale)
    assert sum(1 for _ in pipeline.transformer.modules()) == modules
