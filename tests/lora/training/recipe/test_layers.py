"""A LoRA is on the layers that the user chose, and no pattern can hang or crash the training."""

import json
from time import monotonic

import pytest
from diffusers import FluxTransformer2DModel

from lora.flux.family import FLUX1
from lora.training.learning.adapter import lora_tensors
from lora.training.recipe.layers import block_layers, select_layers
from tests.tiny import LAYERS, TINY_FLUX, assert_one_sentence, tiny_lora_transformer, tiny_transformer

DEV = {"num_layers": 19, "num_single_layers": 38, "guidance_embeds": True, "_class_name": "FluxTransformer2DModel"}
# The example in the description of this input of ostris/flux-dev-lora-trainer.
DOCUMENTED = "transformer.single_transformer_blocks.(7|12|16|20).proj_out"
# Patterns that never end, or that fill the memory, whether they are searched for or must match whole names.
BOMBS = [r"(?:(?:\w|\w\w|\.)+)+$(?<!.)", r"(?:.|..|...)+$(?<!.)", r"(?b)(?:abcdefghijklmnopqrstuvwxyz){e<=20}"]
MEMORY_BOMBS = ["(?:" * 100 + "a" + ")+" * 100, "(?R)", r"(?P<a>(?&a)*)", r"(\w(?1)*)*", r"(?P<a>(?P>a)*)"]
SOON = 4  # seconds, on a busy machine too


@pytest.fixture(scope="module")
def names():
    return block_layers(DEV, FluxTransformer2DModel)


def searched(names, pattern):
    return select_layers(names, FLUX1, layers="all", layers_to_optimize_regex=pattern)


def whole(names, layers):
    return select_layers(names, FLUX1, layers=layers, layers_to_optimize_regex=None)


def refusal(names, *, layers="all", pattern=None):
    """The error message, which must come soon."""
    start = monotonic()
    with pytest.raises(ValueError) as error:
        select_layers(names, FLUX1, layers=layers, layers_to_optimize_regex=pattern)
    assert monotonic() - start < SOON
    assert_one_sentence(error.value)
    assert len(str(error.value)) < 400
    return str(error.value)


def test_flux_dev_has_494_layers_and_all_are_inside_the_blocks(names):
    """Trap 22: the last layer of the model is called proj_out too."""
    assert len(names) == 494
    assert all("transformer_blocks." in name for name in names)
    assert next(iter(names)).startswith("transformer_blocks.0.")
    assert list(names)[-1].startswith("single_transformer_blocks.37.")


def test_the_layers_of_a_config_are_those_of_the_model_it_describes():
    bare = tiny_transformer()
    names = block_layers(bare.config, FluxTransformer2DModel)
    assert len(names) == LAYERS
    assert list(names) == [name for name, _ in bare.named_modules() if name in set(names)]
    assert {f"transformer.{name}" for name in names} == {
        name.rsplit(".lora_", 1)[0] for name in lora_tensors(tiny_lora_transformer())
    }


def test_the_config_file_of_a_model_is_accepted():
    config = json.loads((TINY_FLUX / "transformer" / "config.json").read_text())
    assert (
        len(block_layers(config, FluxTransformer2DModel)) == 14 * config["num_layers"] + 6 * config["num_single_layers"]
    )


@pytest.mark.parametrize(("layers", "count"), [("all", 494), ("no-modulation", 418), ("attention", 266), ("fast", 4)])
def test_each_set_has_as_many_layers_as_in_other_trainers(names, layers, count):
    choice = whole(names, layers)
    assert len(choice.names) == count
    assert choice.note.startswith(f"LoRA on {count} of 494 layers")
    assert layers in FLUX1.transformer.layer_sets


def test_the_sets_match_their_names(names):
    assert whole(names, "all").names == tuple(names)
    assert not any("norm" in name for name in whole(names, "no-modulation").names)
    assert all(".attn." in name for name in whole(names, "attention").names)
    assert whole(names, "fast").names == tuple(f"single_transformer_blocks.{n}.proj_out" for n in (7, 12, 16, 20))


def test_the_fast_set_takes_the_blocks_that_exist():
    names = block_layers(DEV | {"num_layers": 1, "num_single_layers": 13}, FluxTransformer2DModel)
    assert whole(names, "fast").names == tuple(f"single_transformer_blocks.{n}.proj_out" for n in (7, 12))
    error = refusal(block_layers(tiny_transformer().config, FluxTransformer2DModel), layers="fast")
    assert "layers is 'fast'" in error


@pytest.mark.parametrize("prefix", ["", r"transformer\."])
def test_layers_may_be_a_pattern_for_whole_names(names, prefix):
    choice = whole(names, prefix + r"single_transformer_blocks\.1\.proj_(mlp|out)")
    assert choice.names == tuple(f"single_transformer_blocks.1.{name}" for name in ("proj_mlp", "proj_out"))
    assert "LoRA on 2 of 494 layers" in choice.note
    assert "layers is" in refusal(names, layers=prefix + r"single_transformer_blocks\.1")


@pytest.mark.parametrize("given", [None, "", " ", "\n"])
def test_an_empty_pattern_is_no_pattern(names, given):
    assert searched(names, given).names == tuple(names)


def test_the_documented_pattern_of_the_public_trainer_matches_four_layers(names):
    choice = searched(names, DOCUMENTED)
    assert choice.names == whole(names, "fast").names
    assert choice.note == "LoRA on 4 of 494 layers"


def test_layers_to_optimize_regex_is_not_anchored_and_the_note_says_so(names):
    """Trap T16: `blocks.1` also matches blocks 10 to 19, as in ostris/flux-dev-lora-trainer."""
    choice = searched(names, "transformer.single_transformer_blocks.1")
    assert {name.split(".")[1] for name in choice.names} == {"1", *map(str, range(10, 20))}
    assert choice.note.startswith("LoRA on 66 of 494 layers; layers_to_optimize_regex matches anywhere in a name")
    assert "single_transformer_blocks.10.norm.linear" in choice.note
    assert choice.names == tuple(name for name in names if name in set(choice.names))


@pytest.mark.parametrize("pattern", [r"blocks\.1\.", r"single_transformer_blocks\.\d+", "to_out.0$", "ff.net.2"])
def test_the_note_does_not_mention_numbers_if_none_is_cut(names, pattern):
    assert "inside numbers" not in searched(names, pattern).note


def test_a_pattern_that_begins_inside_a_number_is_noted_too(names):
    assert "inside numbers" in searched(names, r"7\.proj_out").note


@pytest.mark.parametrize("pattern", [r"attn\.to_q$", r"single.*\.attn\.to", "proj_mlp", r"add_[qk]_proj"])
def test_a_partial_group_is_noted(names, pattern):
    """Trap 23: to_q, to_k, to_v (and proj_mlp in single blocks) are one layer at Replicate."""
    note = searched(names, pattern).note
    assert "Replicate's flux-dev-lora cannot load" in note
    assert "diffusers and ComfyUI can" in note


@pytest.mark.parametrize("layers", ["all", "no-modulation", "fast", r"transformer_blocks\.\d+\.attn\.to_[qkv]"])
def test_a_complete_group_is_not_noted(names, layers):
    assert "Replicate" not in whole(names, layers).note


def test_the_note_on_partial_groups_counts_blocks_and_names_the_first(names):
    note = searched(names, r"\.2\d\.attn\.to_q").note
    assert "10 blocks with only some of to_q, to_k, to_v" in note
    assert "such as single_transformer_blocks.20:" in note
    assert "1 block with" in searched(names, r"single_transformer_blocks\.3\.proj_mlp").note


def test_both_inputs_at_once_are_refused(names):
    error = refusal(names, layers="fast", pattern=DOCUMENTED)
    assert "layers_to_optimize_regex" in error
    assert "layers are both given" in error


@pytest.mark.parametrize(
    "typed", ["(", "[", "*", r"\N{no such}", "a{2}{3}", "(?u)(?a)x", "a{99999999999}", "(?P<a", "(\n"]
)
def test_an_invalid_pattern_is_refused(names, typed):
    """B9."""
    assert "layers_to_optimize_regex is '" in refusal(names, pattern=typed)
    assert "expected a valid regex" in refusal(names, pattern=typed)
    assert "expected a valid regex" in refusal(names, layers=typed)


@pytest.mark.parametrize("typed", ["no_such_layer", r"x_embedder", r"^proj_out", "\x01", "ﬁ" * 500])
def test_a_pattern_that_matches_no_layer_is_refused(names, typed):
    assert "none of 494 layers: expected a regex for layer names such as transformer." in refusal(names, pattern=typed)
    assert "expected all, no-modulation, attention, fast, or a regex" in refusal(names, layers=typed)


def test_a_long_pattern_is_refused(names):
    """B9."""
    assert "layers_to_optimize_regex has 513 characters: expected at most 512" in refusal(names, pattern="a" * 513)
    assert "layers has 10000 characters" in refusal(names, layers="a" * 10_000)
    assert len(searched(names, "|".join(["to_q"] * 102)).names) == 57


@pytest.mark.parametrize("typed", BOMBS)
def test_a_pattern_that_takes_too_long_is_refused(monkeypatch, names, typed):
    """B10, finding 15. These patterns would take hours, so a shorter time limit is reached as well."""
    monkeypatch.setattr("lora.training.recipe.layers.SEARCH_SECONDS", 0.1)
    assert "layers_to_optimize_regex takes too long" in refusal(names, pattern=typed)
    assert "layers takes too long" in refusal(names, layers=typed)


def test_the_time_limit_is_for_all_searches_together(monkeypatch, names):
    """A pattern that is slow for every name, but never too slow."""
    monkeypatch.setattr("lora.training.recipe.layers.SEARCH_SECONDS", 10.0)
    monkeypatch.setattr("lora.training.recipe.layers.ALL_SECONDS", 0.3)
    many = {f"{name}.{copy}": shape for copy in range(200) for name, shape in names.items()}
    assert "takes too long" in refusal(many, pattern=r"(?b)(?:abcdefgh){e<=3}$(?<!.)")


def test_patterns_that_hang_the_re_module_are_matched_quickly(names):
    """B10: the worker of ostris/flux-dev-lora-trainer hangs on these."""
    assert "none of 494 layers" in refusal(names, pattern="(a+)+$")
    start = monotonic()
    assert searched(names, "(.*)*x").names == tuple(name for name in names if "x" in name)
    assert monotonic() - start < SOON


@pytest.mark.parametrize("typed", MEMORY_BOMBS)
def test_a_pattern_that_fills_the_memory_is_refused(names, typed):
    """Each nested repeat doubles the compiled pattern, which no time limit sees; recursion fills it in the search."""
    start = monotonic()
    message = refusal(names, pattern=typed)
    assert monotonic() - start < 0.5
    assert "recursion" in message or "100 opening brackets: expected at most 10" in message


@pytest.mark.parametrize(
    ("typed", "count"),
    [("(?i)TO_Q", 57), ("(?x) to_q  # and nothing else", 57), ("(?i:PROJ_MLP)|to_q$ # x", 38), (r"(?s-i:to_q)", 57)],
)
def test_flags_and_comments_are_understood(names, typed, count):
    assert len(searched(names, typed).names) == count


@pytest.mark.parametrize("typed", ["(?x) .* to_q  # and nothing else", r".*to_q(?#)", "(?i).*TO_Q", r"(?r).*to_q"])
def test_flags_and_comments_are_understood_in_whole_names(names, typed):
    assert len(whole(names, typed).names) == 57
