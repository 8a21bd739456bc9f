"""The neutral prompts for preservation are those in the folder of a base, or those for FLUX.1."""

import json

import pytest

from lora.training.recipe.neutral import MAX_PROMPTS, NEUTRAL_PROMPTS, PROMPTS_FILE, neutral_prompts, neutral_side
from script.tiny_flux.captions import neutral_prompts as prompts_of_the_world
from script.tiny_flux.world import caption, held_out_scenes
from tests.tiny import TINY_FLUX, assert_one_sentence


def test_a_base_without_its_own_prompts_gets_those_of_flux(tmp_path):
    assert neutral_prompts(tmp_path) == NEUTRAL_PROMPTS
    assert len(set(NEUTRAL_PROMPTS)) == len(NEUTRAL_PROMPTS) <= MAX_PROMPTS


def test_the_prompts_of_the_embedded_base_are_of_its_world_and_not_used_to_measure_it():
    found = neutral_prompts(TINY_FLUX)
    assert found == tuple(prompts_of_the_world())
    assert not set(found) & {caption(scene) for scene in held_out_scenes()}
    assert {word for prompt in found for word in prompt.split()} >= {
        "star",
        "heart",
        "red",
        "purple",
        "meadow",
        "night",
    }


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"[", "cannot be read"),
        (b"\xff\xfe[]", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b'["\\ud800"]', "is not a list of prompts"),
        (b"{}", "is not a list of prompts"),
        (b'"a dog"', "is not a list of prompts"),
        (b'["a dog", 1]', "is not a list of prompts"),
        (b'["a dog", " "]', "is not a list of prompts"),
        (json.dumps(["a" * 1001]).encode(), "is not a list of prompts"),
        (b"[]", "0 prompts"),
        (b'["a dog", "a dog"]', "2 prompts, 1 of them different"),
        (json.dumps([f"{number} dogs" for number in range(65)]).encode(), "65 prompts"),
    ],
)
def test_an_invalid_file_is_refused_with_what_was_expected(tmp_path, content, found):
    file = tmp_path / PROMPTS_FILE
    file.write_bytes(content)
    with pytest.raises(ValueError) as error:
        neutral_prompts(tmp_path)
    assert_one_sentence(
        error.value, str(file), found, "expected a JSON list of 1 to 64 different prompts", "1000 characters"
    )


def test_a_broken_link_in_place_of_the_file_is_refused(tmp_path):
    (tmp_path / PROMPTS_FILE).symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="cannot be read"):
        neutral_prompts(tmp_path)


@pytest.mark.parametrize(
    ("resolutions", "side"), [((512, 768, 1024), 512), ((1024,), 512), ((128,), 128), ((100, 64), 64), ((200,), 192)]
)
def test_the_side_is_the_smallest_resolution_in_whole_tokens(resolutions, side):
    assert neutral_side(resolutions) == side
