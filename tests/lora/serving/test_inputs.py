"""The inputs of a prediction that are checked against each other."""

import pytest
from PIL import Image

from lora.flux.sampling import SAMPLING
from lora.serving import inputs as inputs_module
from lora.serving.inputs import PredictionInputs, complete_inputs
from predict import Runner
from tests.tiny import assert_one_sentence, encoded, solid_image, write


def checked(**inputs):
    complete = complete_inputs({"prompt": "a red star", **inputs}, entry=Runner.run)
    return PredictionInputs.checked(complete, defaults=SAMPLING.defaults, trained="")


def test_an_inpainted_image_that_is_longer_than_its_format_can_hold_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(inputs_module, "LONGEST_SIDE", {"webp": 99})
    image = write(tmp_path / "image.png", encoded(solid_image(100, 70)))
    mask = write(tmp_path / "mask.png", encoded(Image.new("L", (100, 70), 255)))
    with pytest.raises(ValueError) as error:
        checked(image=image, mask=mask, output_format="webp")
    assert_one_sentence(
        error.value, "image is 100x70", "output_format is webp", "at most 99 pixels a side", "jpg or png"
    )
    assert checked(image=image, mask=mask, output_format="png").source
    assert checked(image=image, output_format="webp").source


def test_the_longest_webp_is_as_long_as_the_format_allows(tmp_path):
    longest = inputs_module.LONGEST_SIDE["webp"]
    Image.new("RGB", (longest, 1)).save(tmp_path / "a.webp")
    with pytest.raises(ValueError, match=f"limit of {longest}"):
        Image.new("RGB", (longest + 1, 1)).save(tmp_path / "b.webp")
