"""What a model card and a report page say of a base that nobody knows by its name."""

import pytest

from lora.training.result.card import training_card
from lora.training.result.page_base import page_base
from tests.families import of_each_family


def texts(folder, **settings):
    """The card and the program of the page, for a base in a folder of the user's own."""
    settings = {"base_model": "/home/me/mine", "trigger_word": "TOK"} | settings
    page = page_base("/home/me/mine", family=str(settings.get("base_family", "")), trigger_word="TOK", edits=False)
    return training_card(settings, {}, folder, captions=(), repository=None), page.program


@of_each_family
def test_a_base_of_the_users_own_generates_with_the_defaults_of_its_family(tiny, tmp_path):
    defaults = tiny.family.sampling.defaults
    for text in texts(tmp_path, base_family=tiny.family.name):
        assert f"from diffusers import {tiny.family.components.pipeline.__name__}\n" in text
        assert 'from_pretrained("path/to/mine"' in text
        assert f"guidance_scale={defaults.guidance}, num_inference_steps={defaults.steps})" in text
        assert "/home" not in text


@pytest.mark.parametrize("settings", [{}, {"base_family": "another"}])
def test_the_settings_of_an_older_version_name_no_family_so_diffusers_chooses_the_pipeline(tmp_path, settings):
    for text in texts(tmp_path, **settings):
        assert "from diffusers import DiffusionPipeline\n" in text
        assert "guidance_scale=3.5, num_inference_steps=28)" in text
