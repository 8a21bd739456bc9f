"""The settings contain everything that an image depends on, and nothing else."""

import dataclasses
import hashlib

from PIL import Image

from lora.images.size import Size
from lora.serving.lora_merger import AppliedLora
from lora.serving.reference_images import ReferenceImage
from lora.serving.settings import settings_of
from script.tiny_flux.following import plain_request
from tests.generation_requests import a_source
from tests.tiny import write

REQUEST = dataclasses.replace(plain_request("a star"), aspect_ratio="custom", custom_size=(96, 96), num_outputs=2)
NO_LORAS = {"model": "tiny", "loras": []}


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def test_settings_contain_the_sha256_of_image_and_mask_and_the_prompt_strength(tmp_path):
    image, mask = write(tmp_path / "image", b"an image"), write(tmp_path / "mask", b"a mask")
    source = a_source(Image.new("RGB", (64, 48)), Image.new("L", (64, 48)), 0.3)
    with_both = settings_of(REQUEST, source, Size(64, 48), image=image, mask=mask, **NO_LORAS)
    assert (with_both["image"], with_both["mask"]) == (sha256(b"an image"), sha256(b"a mask"))
    assert with_both["prompt_strength"] == 0.3
    alone = settings_of(REQUEST, source, Size(64, 48), image=image, mask=None, **NO_LORAS)
    assert alone["mask"] is None
    assert {"image", "mask", "prompt_strength"}.isdisjoint(
        settings_of(REQUEST, None, Size(96, 96), image=None, mask=None, **NO_LORAS)
    )


def test_settings_contain_the_sha256_of_every_reference_image_in_order(tmp_path):
    files = [write(tmp_path / name, name.encode()) for name in ("b", "a")]
    shown = [ReferenceImage(Image.new("RGB", (64, 48)), file) for file in files]
    given = {"image": None, "mask": None, **NO_LORAS}
    found = settings_of(REQUEST, None, Size(64, 48), references=shown, **given)
    assert found["reference_images"] == [sha256(b"b"), sha256(b"a")]
    assert "reference_images" not in settings_of(REQUEST, None, Size(64, 48), **given)


def test_the_size_is_that_of_the_image_whatever_the_request_says():
    settings = settings_of(REQUEST, None, Size(64, 48), image=None, mask=None, **NO_LORAS)
    assert (settings["width"], settings["height"]) == (64, 48)
    assert {"custom_size", "num_outputs", "seed"}.isdisjoint(settings)


def test_a_lora_at_scale_0_is_not_in_the_settings():
    loras = [AppliedLora("a", None, 0.5, "a"), AppliedLora("b", None, 0.0, "b")]
    settings = settings_of(REQUEST, None, Size(64, 64), image=None, mask=None, model="tiny", loras=loras)
    assert settings["loras"] == [("a", 0.5)]
