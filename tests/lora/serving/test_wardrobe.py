"""Whatever was worn before, a request finds the base or exactly its own LoRA; a misfit leaves no trace."""

import peft
import pytest
import torch

from lora.serving.wardrobe import Wardrobe
from tests.tiny import assert_one_sentence, random_lora, tiny_pipeline

LAYER = "transformer.transformer_blocks.0.attn.to_q"
DOWN, UP = f"{LAYER}.lora_A.weight", f"{LAYER}.lora_B.weight"


@pytest.fixture(scope="module")
def pipeline():
    return tiny_pipeline()


@pytest.fixture(scope="module", autouse=True)
def base(pipeline):
    """What the pipeline draws when it wears nothing and never has."""
    return drawn(pipeline)


@pytest.fixture(scope="module")
def loras(pipeline):
    """Three LoRAs of two ranks, made from the bare transformer."""
    ranks = {"a": 4, "b": 8, "c": 4}
    return {
        name: random_lora(pipeline.transformer, rank=rank, seed=seed) for seed, (name, rank) in enumerate(ranks.items())
    }


@pytest.fixture
def wardrobe(pipeline):
    wardrobe = Wardrobe(pipeline)
    yield wardrobe
    wardrobe.take_off()


def drawn(pipeline):
    """Latents of a small image, before a VAE could hide a difference."""
    return pipeline(
        prompt="a photo of TOK",
        width=64,
        height=64,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(1),
        output_type="latent",
    ).images


def with_b_times(tensors, factor):
    return {name: tensor * factor if ".lora_B." in name else tensor for name, tensor in tensors.items()}


def without(tensors, *names):
    return {name: tensor for name, tensor in tensors.items() if name not in names}


def worn_layers(pipeline):
    return [name for name, _ in pipeline.transformer.named_modules() if "lora_" in name]


def misfits(lora):
    """LoRAs that look right from afar, and what must be said of them."""
    down, up = lora[DOWN], lora[UP]
    embedder = "transformer.x_embedder"
    return {
        "wrong inputs": (lora | {DOWN: torch.ones(4, 7)}, "transformer_blocks.0.attn.to_q is for 192 x 7 weights"),
        "wrong outputs": (lora | {UP: torch.ones(7, 4)}, "transformer_blocks.0.attn.to_q is for 7 x 192 weights"),
        "not a matrix": (lora | {DOWN: torch.ones(4)}, DOWN),
        "unknown layer": (lora | {f"transformer.nowhere.lora_{part}.weight": down for part in "AB"}, "nowhere"),
        "a block too many": (lora | {DOWN.replace(".0.", ".99."): down, UP.replace(".0.", ".99."): up}, ".99."),
        "only half a pair": (without(lora, UP), DOWN),
        "the other half": (without(lora, DOWN), UP),
        "two ranks": (lora | {DOWN: torch.cat([down, down])}, LAYER),
        "a control LoRA": (
            lora | {f"{embedder}.lora_A.weight": torch.ones(4, 128), f"{embedder}.lora_B.weight": torch.ones(192, 4)},
            "x_embedder",
        ),
    }


MISFITS = [
    "wrong inputs",
    "wrong outputs",
    "not a matrix",
    "unknown layer",
    "a block too many",
    "only half a pair",
    "the other half",
    "two ranks",
    "a control LoRA",
]


def test_a_lora_changes_what_is_drawn(pipeline, wardrobe, base, loras):
    """Trap 29."""
    wardrobe.wear(loras["a"], name="a", scale=1.0)
    assert (drawn(pipeline) - base).abs().max() > 1e-3


def test_every_layer_of_a_lora_is_worn(pipeline, wardrobe, loras):
    """Trap 29."""
    wardrobe.wear(loras["a"], name="a", scale=1.0)
    worn = [name for name in worn_layers(pipeline) if name.endswith(("lora_A.a", "lora_B.a"))]
    assert len(worn) == len(loras["a"])


def test_taking_off_leaves_the_base_bit_for_bit(pipeline, wardrobe, base, loras):
    wardrobe.wear(loras["a"], name="a", scale=1.0)
    wardrobe.take_off()
    assert torch.equal(drawn(pipeline), base)
    assert worn_layers(pipeline) == []


def test_taking_off_nothing_is_allowed(pipeline, wardrobe, base):
    wardrobe.take_off()
    wardrobe.take_off()
    assert torch.equal(drawn(pipeline), base)


@pytest.mark.parametrize("before", [None, "b"])
def test_scale_0_is_no_lora_bit_for_bit(pipeline, wardrobe, base, loras, before):
    if before:
        wardrobe.wear(loras[before], name=before, scale=1.0)
    wardrobe.wear(loras["a"], name="a", scale=0.0)
    assert torch.equal(drawn(pipeline), base)
    assert worn_layers(pipeline) == []


def test_a_lora_draws_the_same_whatever_was_worn_before(pipeline, wardrobe, base, loras):
    wardrobe.wear(loras["a"], name="a", scale=1.0)
    fresh = drawn(pipeline)
    wardrobe.wear(loras["b"], name="b", scale=1.7)
    other = drawn(pipeline)
    wardrobe.take_off()
    assert torch.equal(drawn(pipeline), base)
    wardrobe.wear(loras["a"], name="a", scale=1.0)
    assert torch.equal(drawn(pipeline), fresh)
    assert not torch.equal(other, fresh)


def test_loras_of_equal_rank_are_told_apart(pipeline, wardrobe, loras):
    answers = []
    for name in ("a", "c", "a", "c"):
        wardrobe.wear(loras[name], name=name, scale=1.0)
        answers.append(drawn(pipeline))
    assert torch.equal(answers[0], answers[2])
    assert torch.equal(answers[1], answers[3])
    assert not torch.equal(answers[0], answers[1])


def test_another_scale_of_what_is_worn_counts_from_the_whole(pipeline, wardrobe, loras):
    wardrobe.wear(loras["a"], name="a", scale=1.0)
    whole = drawn(pipeline)
    wardrobe.wear(loras["a"], name="a", scale=0.5)
    assert not torch.equal(drawn(pipeline), whole)
    wardrobe.wear(loras["a"], name="a", scale=1.0)
    assert torch.equal(drawn(pipeline), whole)


@pytest.mark.parametrize("scale", [0.5, -1.0, 2.0])
def test_a_scale_multiplies_b(pipeline, wardrobe, loras, scale):
    """Trap 24: 0.5 is half of it, and -1 subtracts it."""
    wardrobe.wear(loras["a"], name="a", scale=scale)
    scaled = drawn(pipeline)
    wardrobe.wear(with_b_times(loras["a"], scale), name="multiplied", scale=1.0)
    assert torch.allclose(drawn(pipeline), scaled, atol=1e-5)


@pytest.mark.parametrize("kind", MISFITS)
def test_a_misfit_is_refused_and_leaves_the_base(pipeline, wardrobe, base, loras, kind):
    tensors, found = misfits(loras["a"])[kind]
    with pytest.raises(ValueError) as error:
        wardrobe.wear(tensors, name="misfit", scale=1.0)
    assert_one_sentence(error.value, "LoRA", found)
    assert torch.equal(drawn(pipeline), base)
    assert worn_layers(pipeline) == []


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_a_misfit_leaves_on_what_was_worn(pipeline, wardrobe, loras, scale):
    wardrobe.wear(loras["b"], name="b", scale=1.0)
    before = drawn(pipeline)
    with pytest.raises(ValueError):
        wardrobe.wear(without(loras["a"], UP), name="a", scale=scale)
    assert torch.equal(drawn(pipeline), before)


def test_a_load_that_fails_leaves_nothing_worn(pipeline, wardrobe, base, loras):
    wardrobe.wear(loras["b"], name="b", scale=1.0)
    with pytest.raises((KeyError, ValueError)):
        wardrobe.wear(loras["a"], name="no.module.may.be.called.this", scale=1.0)
    assert torch.equal(drawn(pipeline), base)
    assert worn_layers(pipeline) == []
    wardrobe.wear(loras["a"], name="a", scale=1.0)
    assert not torch.equal(drawn(pipeline), base)


def test_a_cancel_in_the_middle_of_a_load_leaves_nothing_worn(monkeypatch, pipeline, wardrobe, base, loras):
    """The layers are there by then, without their weights, and diffusers tidies up after an Exception only."""

    def cancel(*_args, **_kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(peft, "set_peft_model_state_dict", cancel)
        with pytest.raises(KeyboardInterrupt):
            wardrobe.wear(loras["a"], name="a", scale=1.0)
    assert worn_layers(pipeline) == []
    assert torch.equal(drawn(pipeline), base)
    wardrobe.wear(loras["a"], name="a", scale=1.0)
    assert not torch.equal(drawn(pipeline), base)
