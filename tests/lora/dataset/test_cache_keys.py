"""Trap 35: anything that changes a tensor changes its cache key."""

import pytest
import torch

from lora.dataset import cache_keys
from lora.dataset.cache_keys import Keys
from lora.families.loading import load_encoders
from lora.images.size import Size
from tests.families import FIRST, KLEIN, TINY_BASES
from tests.tiny import TINY_FLUX, replace

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pipelines():
    """The encoders of each family."""
    return {tiny.family.name: load_encoders(tiny.folder, on=CPU) for tiny in TINY_BASES}


@pytest.fixture
def pipeline(pipelines):
    return pipelines[FIRST.family.name]


def latents_key(keys, content="a" * 64, size=(64, 96), decoded_for=(64, 96)):
    return keys.latents(content, Size(*size), decoded_for=Size(*decoded_for))


def test_equal_encoders_have_equal_keys(pipeline):
    one, other = Keys.of(pipeline, TINY_FLUX, on=CPU), Keys.of(pipeline, TINY_FLUX, on=CPU)
    assert latents_key(one) == latents_key(other)
    assert one.prompt("a dog") == other.prompt("a dog")


@pytest.mark.parametrize("changed", [{"content": "b" * 64}, {"size": (96, 64)}, {"decoded_for": (128, 192)}])
def test_another_image_or_size_changes_the_key(pipeline, changed):
    keys = Keys.of(pipeline, TINY_FLUX, on=CPU)
    assert latents_key(keys, **changed) != latents_key(keys)


def test_a_mask_has_a_key_of_its_image_its_own_content_and_its_crops(pipeline):
    keys = Keys.of(pipeline, TINY_FLUX, on=CPU)
    parts = (("a", "b", [64]), ("c", "b", [64]), ("a", "c", [64]), ("a", "b", [64, 96]))
    assert len({keys.mask(*each) for each in parts}) == 4


def test_each_text_has_its_own_key(pipeline):
    keys = Keys.of(pipeline, TINY_FLUX, on=CPU)
    assert len({keys.prompt(text) for text in ("a dog", "a Dog", "a dog ", "")}) == 4


def test_an_image_and_a_text_never_share_a_key(pipeline):
    keys = Keys.of(pipeline, TINY_FLUX, on=CPU)
    assert latents_key(keys, content="a dog") != keys.prompt("a dog")


@pytest.mark.parametrize(
    ("tiny", "file", "of_images"),
    [
        (FIRST, "vae/config.json", True),
        (FIRST, "text_encoder_2/config.json", False),
        (FIRST, "tokenizer/tokenizer_config.json", False),
        (KLEIN, "vae/config.json", True),
        (KLEIN, "text_encoder/config.json", False),
        (KLEIN, "tokenizer/chat_template.jinja", False),
    ],
)
def test_other_weights_change_only_the_keys_of_their_outputs(pipelines, tmp_path, tiny, file, of_images):
    pipeline, changed = pipelines[tiny.family.name], tiny.linked(tmp_path / "base")
    replace(changed / file, (tiny.folder / file).read_bytes() + b"\n")
    ours, theirs = Keys.of(pipeline, tiny.folder, on=CPU), Keys.of(pipeline, changed, on=CPU)
    assert (latents_key(ours) != latents_key(theirs)) is of_images
    assert (ours.prompt("a dog") != theirs.prompt("a dog")) is not of_images


def test_no_key_of_one_family_serves_the_other(pipelines):
    first, klein = (Keys.of(pipelines[tiny.family.name], tiny.folder, on=CPU) for tiny in TINY_BASES)
    assert latents_key(first) != latents_key(klein)
    assert first.prompt("a dog") != klein.prompt("a dog")
    assert first.mask("a", "b", [64]) != klein.mask("a", "b", [64])


def test_another_text_length_changes_only_the_keys_of_texts(pipeline, monkeypatch):
    before = Keys.of(pipeline, TINY_FLUX, on=CPU)
    monkeypatch.setattr(pipeline.tokenizer_2, "model_max_length", 48)
    after = Keys.of(pipeline, TINY_FLUX, on=CPU)
    assert latents_key(after) == latents_key(before)
    assert after.prompt("a dog") != before.prompt("a dog")


def test_a_new_revision_of_the_code_changes_all_keys(pipeline, monkeypatch):
    before = Keys.of(pipeline, TINY_FLUX, on=CPU)
    monkeypatch.setattr(cache_keys, "REVISION", cache_keys.REVISION + 1)
    after = Keys.of(pipeline, TINY_FLUX, on=CPU)
    assert latents_key(before) != latents_key(after)
    assert before.prompt("a dog") != after.prompt("a dog")
