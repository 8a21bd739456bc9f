"""Without prompts of the user, the samples of a training are made of its captions."""

from types import SimpleNamespace

import pytest

from lora.training.recipe.samples import PLACES, SampleSettings, default_prompts, sample_settings
from tests.families import of_each_family
from tests.tiny import checked_config


def images(*prompts):
    """Images with these prompts; nothing else of them is read."""
    return tuple(SimpleNamespace(prompt=prompt) for prompt in prompts)


def test_by_default_one_prompt_is_a_caption_and_the_other_the_trigger_word_elsewhere():
    prompts = default_prompts(images("TOK", "a TOK on a table", "a TOK in a box"), trigger_word="TOK")
    assert prompts == ("a TOK on a table", "TOK in the desert")


@pytest.mark.parametrize(
    ("captions", "place"),
    [
        (("TOK in a Desert, at night",), "in a meadow"),
        (("TOK in the desert", "TOK in a meadow", "TOK on the beach"), "in a forest"),
        (PLACES, PLACES[-1]),
    ],
)
def test_the_place_is_one_that_no_caption_names(captions, place):
    assert default_prompts(images(*captions), trigger_word="TOK")[-1] == f"TOK {place}"


def test_images_without_captions_give_one_prompt():
    assert default_prompts(images("TOK", "TOK"), trigger_word="TOK") == ("TOK in the desert",)


def test_without_a_trigger_word_a_caption_is_the_only_prompt():
    assert default_prompts(images("", "a dog"), trigger_word="") == ("a dog",)
    assert default_prompts(images("", ""), trigger_word="") == ()


def test_default_samples_are_small_and_only_before_and_after_the_training():
    config = checked_config(resolution="512,1024")
    found = sample_settings(config, images("a TOK"), default_guidance=3.5)
    assert found == SampleSettings(("a TOK", "TOK in the desert"), 512, 0, 20, 3.5)


def test_prompts_of_the_user_have_the_largest_training_size():
    config = checked_config(resolution="512,1024", sample_prompts="a cat", sample_every=7, sample_steps=3)
    found = sample_settings(config, images("a TOK"), default_guidance=3.5)
    assert found == SampleSettings(("a cat",), 1024, 7, 3, 3.5)


@of_each_family
def test_the_guidance_is_that_of_the_family_unless_it_is_given(tiny):
    default = tiny.family.sampling.defaults.guidance
    assert default == pytest.approx(4.0 if tiny.prompts > 1 else 3.5)
    for given, expected in ((None, default), (0, 0), (7.5, 7.5)):
        config = checked_config(sample_guidance=given)
        assert sample_settings(config, images("a TOK"), default_guidance=default).guidance == expected


def test_without_samples_there_is_no_size_that_would_need_memory():
    config = checked_config(sample_prompts="none")
    assert sample_settings(config, images("a TOK"), default_guidance=3.5).side == 0
