"""Two trainings have the same identity exactly if one can resume from the other's checkpoint and give the same LoRA."""

import hashlib
import json
import shutil
from dataclasses import replace

import pytest

from lora.dataset.mask_settings import MaskSettings
from lora.dataset.masks import FoundMasks, Mask
from lora.training.checkpoints.identity import Difference, differences, folder_name, identity_of, refuse_mismatch
from tests.families import TINY_BASES, of_each_family
from tests.tiny import (
    TINY_FLUX,
    a_recipe,
    assert_one_sentence,
    base_with_text_length,
    checked_config,
    encoded,
    read_archive,
    solid_image,
    write,
    zipped,
)

LAYERS = ("transformer_blocks.0.attn.to_q", "transformer_blocks.0.attn.to_k")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The components of a base on which a LoRA depends."""
    folder = tmp_path_factory.mktemp("base")
    for component in ("transformer", "tokenizer_2"):
        shutil.copytree(TINY_FLUX / component, folder / component)
    shutil.copy(TINY_FLUX / "model_index.json", folder)
    return folder


def images(folder, *, colors=("red", "blue"), captions=("one", "two"), resolutions=(64,), order=1, trigger_word="TOK"):
    folder.mkdir(parents=True)
    members = {}
    for number, (color, caption) in enumerate(zip(colors, captions, strict=True)):
        members |= {f"{number}.png": encoded(solid_image(color=color)), f"{number}.txt": caption}
    archive = write(folder / "a.zip", zipped(dict(list(members.items())[::order])))
    return read_archive(archive, into=folder / "into", resolutions=resolutions, trigger_word=trigger_word).dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return images(tmp_path_factory.mktemp("images") / "plain")


def identity(dataset, base, *, recipe=None, neutral=(), layers=LAYERS, base_name="tiny", processes=1, **inputs):
    config, recipe = checked_config(resolution="64", **inputs), recipe or a_recipe()
    named = {"neutral": neutral, "layers": layers, "base": base_name, "weights": base}
    return identity_of(recipe, dataset, config, **named, processes=processes)


def difference(one, other):
    """The name of the field with which one identity is refused by the other."""
    with pytest.raises(ValueError) as error:
        refuse_mismatch(json.loads(json.dumps(one)), other, "resume_from")
    assert_one_sentence(error.value)
    return str(error.value).removeprefix("resume_from is from a training with ").split(" ")[0]


def test_the_identity_depends_neither_on_the_order_of_images_nor_on_saving_it_as_json(tmp_path, dataset, base):
    one, other = identity(dataset, base), identity(images(tmp_path / "again", order=-1), base)
    refuse_mismatch(json.loads(json.dumps(one)), other, "resume_from")
    assert folder_name(one) == folder_name(other)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"lora_rank": 8}, "lora_rank"),
        ({"learning_rate": 2e-3}, "learning_rate"),
        ({"seed": 43}, "seed"),
        ({"batch_size": 4}, "batch_size"),
        ({"gradient_accumulation": 2}, "gradient_accumulation"),
        ({"optimizer": "prodigy"}, "optimizer"),
        ({"lr_scheduler": "cosine"}, "lr_scheduler"),
        ({"ema_decay": 0.9}, "ema_decay"),
        ({"caption_dropout_rate": 0.5}, "caption_dropout_rate"),
        ({"preservation": 0.5}, "preservation"),
        ({"sigma_rule": replace(a_recipe().sigma_rule, style_share=0.5)}, "sigma_rule"),
    ],
)
def test_another_recipe_is_another_training(dataset, base, changes, field):
    ours, theirs = identity(dataset, base), identity(dataset, base, recipe=a_recipe(**changes))
    assert difference(theirs, ours) == field
    assert folder_name(theirs) != folder_name(ours)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"layers": LAYERS[:1]}, "layers"),
        ({"layers": LAYERS[::-1]}, "layers"),
        ({"base_name": "dev"}, "base_model"),
        ({"validation": False}, "validation"),
        ({"trigger_word": "OTHER"}, "trigger_word"),
    ],
)
def test_other_layers_bases_and_inputs_are_another_training(dataset, base, changes, field):
    assert difference(identity(dataset, base, **changes), identity(dataset, base)) == field


@pytest.mark.parametrize(
    "changes",
    [
        {"colors": ("red", "green")},
        {"captions": ("one", "three")},
        {"captions": ("two", "one")},
        {"resolutions": (128,)},
    ],
)
def test_other_images_captions_and_sizes_are_another_training(tmp_path, dataset, base, changes):
    """Also swapped captions."""
    other = identity(images(tmp_path / "other", **changes), base)
    assert difference(other, identity(dataset, base)) == "images_and_captions"


def test_other_neutral_prompts_are_another_training_where_there_is_preservation(dataset, base):
    recipe, other = a_recipe(preservation=0.5), ("a photo of a dog",)
    assert difference(
        identity(dataset, base, recipe=recipe, neutral=other), identity(dataset, base, recipe=recipe)
    ) == ("neutral_prompts")


def test_another_weight_is_another_training_and_that_of_older_checkpoints_is_1(dataset, base):
    recipe = a_recipe(preservation=0.5)
    ours, theirs = (
        identity(dataset, base, recipe=replace(recipe, preservation_weight=weight)) for weight in (1.0, 4.0)
    )
    assert difference(theirs, ours) == "preservation_weight"
    assert "preservation_weight" not in ours
    off = (identity(dataset, base, recipe=a_recipe(preservation_weight=weight)) for weight in (1.0, 4.0))
    assert folder_name(next(off)) == folder_name(next(off)), "without preservation, the weight has no effect"


def test_a_checkpoint_without_preservation_is_refused_with_the_share_that_continues_it(dataset, base):
    """What preservation asks is no further difference; only preservation=0 is needed."""
    older = json.loads(json.dumps(identity(dataset, base)))
    ours = identity(dataset, base, recipe=a_recipe(preservation=0.25, preservation_weight=2.0), neutral=("a dog",))
    assert list(differences(older, ours)) == [Difference("preservation", 0.0, 0.25)]
    with pytest.raises(ValueError) as error:
        refuse_mismatch(older, ours, "resume_from")
    assert_one_sentence(error.value, "from a training with preservation 0.0: expected 0.25, as in this training")


def test_without_preservation_the_identity_is_that_of_older_checkpoints(tmp_path, dataset):
    """Older checkpoints have neither preservation nor text lengths other than FLUX's."""
    found = identity(dataset, base_with_text_length(512, tmp_path / "base"))
    assert not {"preservation", "neutral_prompts", "text_tokens"} & found.keys()


@of_each_family
def test_other_weights_under_the_same_name_are_another_training(tmp_path, dataset, tiny):
    other = tiny.changed(tmp_path / "base", "transformer/config.json", _diffusers_version="0.1")
    assert difference(identity(dataset, other), identity(dataset, tiny.folder)) == "base_weights"


def test_the_other_family_under_the_same_name_is_another_training(dataset):
    """With the same layers; its checkpoints are in another folder."""
    first, klein = (identity(dataset, each.folder) for each in TINY_BASES)
    assert difference(first, klein) == difference(klein, first) == "base_weights"
    assert folder_name(first) != folder_name(klein)


@of_each_family
def test_another_length_of_text_is_another_training(tmp_path, dataset, tiny):
    other = tiny.changed(tmp_path / "base", f"{tiny.tokenizer}/tokenizer_config.json", model_max_length=64)
    assert difference(identity(dataset, other), identity(dataset, tiny.folder)) == "text_tokens"


def test_the_number_of_steps_counts_only_if_the_learning_rate_depends_on_it(dataset, base):
    ours, longer, shorter = (identity(dataset, base, recipe=a_recipe(steps=steps)) for steps in (1000, 2000, 100))
    refuse_mismatch(json.loads(json.dumps(longer)), ours, "resume_from")
    assert difference(shorter, ours) == "warm_up_steps"
    cosine, longer = (
        identity(dataset, base, recipe=a_recipe(steps=steps, lr_scheduler="cosine")) for steps in (100, 900)
    )
    assert difference(longer, cosine) == "steps"


def test_a_batch_of_two_is_the_same_training_as_one_image_in_each_of_two_processes(dataset, base):
    alone, two = (identity(dataset, base, recipe=a_recipe(batch_size=size), processes=2 // size) for size in (2, 1))
    assert alone == two
    assert difference(identity(dataset, base, processes=2), identity(dataset, base)) == "batch_size"


@pytest.mark.parametrize(
    "inputs",
    [
        {"checkpoint_every": 7},
        {"sample_prompts": "a dog"},
        {"precision": "int8"},
        {"gradient_checkpointing": True},
        {"time_limit": 5},
        {"keep_resume_state": True},
        {"extra_layout": "kohya"},
        {"cache_latents_to_disk": True},
    ],
)
def test_inputs_that_do_not_affect_the_lora_do_not_count(dataset, base, inputs):
    """A training may be resumed on another machine with another GPU."""
    assert identity(dataset, base, **inputs) == identity(dataset, base)


def test_masks_and_the_weight_outside_are_part_of_the_identity_only_if_there_are_masks(dataset, base):
    """Their absence changes no identity of a checkpoint from before them."""
    first, second = dataset.images
    assert not {"masks", "unmasked_weight"} & identity(dataset, base, unmasked_weight=0.5).keys()

    def with_mask(content, weight, background="white"):
        mask = Mask("masks/0.png", first.path, content, is_opacity=False, whitens=background == "white")
        settings = MaskSettings(weight, background)
        return replace(
            dataset, images=(replace(first, mask=mask), second), masks=FoundMasks({first.name: mask}, (), settings)
        )

    one = identity(with_mask("a", 0.1), base)
    assert difference(identity(with_mask("b", 0.1), base), one) == "masks"
    assert difference(identity(with_mask("a", 0.2), base), one) == "unmasked_weight"
    assert difference(identity(dataset, base), one) == "masks"
    original = identity(with_mask("a", 0.1, "original"), base)
    assert difference(original, one) == "mask_background"
    assert "mask_background" not in original, "as in checkpoints from before it"
    with pytest.raises(ValueError, match="mask_background 'original': expected 'white'"):
        refuse_mismatch(json.loads(json.dumps(original)), one, "resume_from")


def test_captions_that_take_turns_are_all_part_of_the_identity(dataset, base):
    first, second = dataset.images
    several = replace(dataset, images=(replace(first, prompts=(first.prompt, "another TOK")), second))
    assert difference(identity(several, base), identity(dataset, base)) == "images_and_captions"


def test_repeats_are_part_of_the_identity_and_their_absence_changes_no_old_one(dataset, base):
    first, second = dataset.images
    repeated = replace(dataset, images=(replace(first, repeats=2), second))
    assert difference(identity(repeated, base), identity(dataset, base)) == "images_and_captions"
    content = [(each.inspection.content, list(map(str, each.inspection.sizes)), each.prompt) for each in dataset.images]
    digest = hashlib.sha256(json.dumps(sorted(content)).encode()).hexdigest()[:16]
    assert identity(dataset, base)["images_and_captions"] == digest
