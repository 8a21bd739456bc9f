"""The models of a base without weights have the layers of the loaded ones."""

import pytest

from lora.families.weightless import weightless_pipeline
from lora.formats.shapes import linear_shapes
from tests.tiny import TINY_FLUX, assert_one_sentence, linked_base, tiny_pipeline

MODELS = ("transformer", "text_encoder", "text_encoder_2")


def test_every_layer_has_the_name_and_shape_of_the_loaded_model_and_no_weight():
    loaded, weightless = tiny_pipeline(), weightless_pipeline(TINY_FLUX)
    for name in MODELS:
        model = getattr(weightless, name)
        assert linear_shapes(model) == linear_shapes(getattr(loaded, name))
        assert all(parameter.is_meta for parameter in model.parameters())


def test_a_damaged_config_is_named(tmp_path):
    base = linked_base(tmp_path / "base")
    config = base / "text_encoder/config.json"
    config.unlink()
    config.write_text("{")
    with pytest.raises(ValueError) as error:
        weightless_pipeline(base)
    assert_one_sentence(error.value, str(base), "cannot be loaded", "expected")
