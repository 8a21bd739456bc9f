"""The log says in what a training differs from its preset."""

from lora.flux.presets import PRESETS
from lora.training.recipe.comparison import recipe_lines
from lora.training.recipe.recipe import make_recipe
from tests.tiny import checked_config


def lines(**inputs):
    config = checked_config(**inputs)
    preset = PRESETS[config.lora_type]
    recipe = make_recipe(config, preset, images=15, processes=1).recipe
    return recipe_lines(config, recipe, preset, images=15, processes=1)


def test_a_training_that_leaves_everything_to_its_preset_has_only_its_main_numbers():
    (line,) = lines(steps=0, learning_rate=0, lora_rank=0)
    assert line.startswith("settings: steps ")
    assert "resolution 512,768,1024" in line


def test_what_differs_from_the_preset_comes_first_with_the_value_of_the_preset():
    first, second = lines(steps=0, learning_rate=0.123, lora_rank=0)
    assert first.startswith("other than lora_type subject would choose: learning_rate 0.123 (it: 0.0")
    assert "learning_rate 0.123" in second
